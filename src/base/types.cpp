#include <weightcast/types.hpp>

#include "base/clock.hpp"

namespace weightcast {

std::string_view code_name(Code code) noexcept {
  switch (code) {
    case Code::kOk: return "ok";
    case Code::kInvalid: return "invalid";
    case Code::kNotFound: return "not_found";
    case Code::kExists: return "exists";
    case Code::kDenied: return "denied";
    case Code::kExhausted: return "exhausted";
    case Code::kDeadline: return "deadline";
    case Code::kUnavailable: return "unavailable";
    case Code::kStale: return "stale";
    case Code::kMismatch: return "mismatch";
    case Code::kCancelled: return "cancelled";
    case Code::kInternal: return "internal";
  }
  return "unknown";
}

std::size_t dtype_size(DType dtype) noexcept {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64: return 8;
    case DType::kF32:
    case DType::kI32: return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16: return 2;
    case DType::kI8:
    case DType::kU8:
    case DType::kBool: return 1;
  }
  return 0;
}

std::string_view dtype_name(DType dtype) noexcept {
  switch (dtype) {
    case DType::kF64: return "f64";
    case DType::kF32: return "f32";
    case DType::kF16: return "f16";
    case DType::kBF16: return "bf16";
    case DType::kI64: return "i64";
    case DType::kI32: return "i32";
    case DType::kI16: return "i16";
    case DType::kI8: return "i8";
    case DType::kU8: return "u8";
    case DType::kBool: return "bool";
  }
  return "?";
}

bool dtype_is_floating(DType dtype) noexcept {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

std::string to_string(const Run& run) {
  return std::to_string(run.started_us) + "." + std::to_string(run.tie);
}

std::string to_string(const Version& version) {
  return to_string(version.run) + ":" + std::to_string(version.number);
}

namespace base {
namespace {
class SystemTime final : public TimeSource {
 public:
  Clock::time_point now() const noexcept override { return Clock::now(); }
};
}  // namespace

const TimeSource& system_time() noexcept {
  static const SystemTime instance;
  return instance;
}
}  // namespace base

}  // namespace weightcast
