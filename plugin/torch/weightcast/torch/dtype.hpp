// Element types: libtorch's and weightcast's.
#pragma once

#include <optional>
#include <string>

#include <c10/core/ScalarType.h>

#include <weightcast/types.hpp>

namespace weightcast {

/// weightcast's name of a libtorch element type; none for complex, quantized and sub-byte ones.
inline std::optional<DType> dtype_of(c10::ScalarType type) noexcept {
  switch (type) {
    case c10::ScalarType::Double: return DType::kF64;
    case c10::ScalarType::Float: return DType::kF32;
    case c10::ScalarType::Half: return DType::kF16;
    case c10::ScalarType::BFloat16: return DType::kBF16;
    case c10::ScalarType::Long: return DType::kI64;
    case c10::ScalarType::Int: return DType::kI32;
    case c10::ScalarType::Short: return DType::kI16;
    case c10::ScalarType::Char: return DType::kI8;
    case c10::ScalarType::Byte: return DType::kU8;
    case c10::ScalarType::Bool: return DType::kBool;
    default: return std::nullopt;
  }
}

/// libtorch's name of a weightcast element type. Precondition: `dtype` is one of the enumerators.
inline c10::ScalarType scalar_type_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::kF64: return c10::ScalarType::Double;
    case DType::kF32: return c10::ScalarType::Float;
    case DType::kF16: return c10::ScalarType::Half;
    case DType::kBF16: return c10::ScalarType::BFloat16;
    case DType::kI64: return c10::ScalarType::Long;
    case DType::kI32: return c10::ScalarType::Int;
    case DType::kI16: return c10::ScalarType::Short;
    case DType::kI8: return c10::ScalarType::Char;
    case DType::kU8: return c10::ScalarType::Byte;
    case DType::kBool: return c10::ScalarType::Bool;
  }
  return c10::ScalarType::Undefined;
}

/// An option that takes `torch::kBFloat16` as well as `weightcast::DType::kBF16`; unset means that
/// every tensor keeps its own.
class PublishedDType {
 public:
  PublishedDType() noexcept = default;
  PublishedDType(DType dtype) noexcept : dtype_(dtype) {}  // NOLINT(google-explicit-constructor)
  /// @throw Error (kInvalid) for an element type that weightcast does not carry
  PublishedDType(c10::ScalarType type) : dtype_(dtype_of(type)) {  // NOLINT(google-explicit-constructor)
    if (!dtype_) {
      throw Error(Status(Code::kInvalid, std::string("dtype: expected Float, Double, Half or BFloat16, got ") +
                                             c10::toString(type)));
    }
  }
  const std::optional<DType>& value() const noexcept { return dtype_; }

 private:
  std::optional<DType> dtype_;
};

}  // namespace weightcast
