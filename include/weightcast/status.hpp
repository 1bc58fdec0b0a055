// How weightcast reports failure: a Status, or a Result that holds a value or a Status.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <weightcast/export.hpp>

namespace weightcast {

/// What kind of failure it is. The message says which, what was expected and what to do about it.
enum class Code {
  kOk = 0,
  kInvalid,       ///< a value the caller gave (option, tensor, message) cannot be used
  kNotFound,      ///< something named does not exist
  kExists,        ///< the place is taken by somebody else
  kDenied,        ///< the operating system or an ownership check refused
  kExhausted,     ///< memory, slots or descriptors have run out
  kDeadline,      ///< the deadline passed first
  kUnavailable,   ///< the peer is not there (now)
  kStale,         ///< the message, version or run is older than what is known
  kMismatch,      ///< two sides disagree: digest, layout, dtype, protocol version
  kCancelled,     ///< given up because a newer operation replaced it or because of close()
  kInternal       ///< a defect of weightcast
};

/// The name of a code as it appears in logs, e.g. "deadline".
WEIGHTCAST_API std::string_view code_name(Code code) noexcept;

/// Success, or a code with a message. Cheap to move; success holds no message.
class [[nodiscard]] Status {
 public:
  Status() noexcept = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status ok() noexcept { return {}; }

  bool is_ok() const noexcept { return code_ == Code::kOk; }
  explicit operator bool() const noexcept { return is_ok(); }
  Code code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }

  /// "code: message", or "ok".
  std::string to_string() const {
    if (is_ok()) return "ok";
    return std::string(code_name(code_)) + ": " + message_;
  }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

/// Thrown by the set-up calls of the libtorch plugin, whose users expect exceptions, and by
/// Result::value_or_throw(). The core itself never throws it.
class Error : public std::runtime_error {
 public:
  explicit Error(const Status& status) : std::runtime_error(status.to_string()), code_(status.code()) {}
  Code code() const noexcept { return code_; }

 private:
  Code code_;
};

/// A value, or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    if (status_.is_ok()) status_ = Status(Code::kInternal, "a Result was made from an ok Status");
  }

  bool is_ok() const noexcept { return value_.has_value(); }
  explicit operator bool() const noexcept { return is_ok(); }
  const Status& status() const noexcept { return status_; }

  /// The value. Precondition: is_ok().
  T& value() & noexcept { return *value_; }
  const T& value() const& noexcept { return *value_; }
  T&& value() && noexcept { return std::move(*value_); }
  T& operator*() & noexcept { return *value_; }
  const T& operator*() const& noexcept { return *value_; }
  T* operator->() noexcept { return &*value_; }
  const T* operator->() const noexcept { return &*value_; }

  /// The value, or weightcast::Error.
  T value_or_throw() && {
    if (!value_) throw Error(status_);
    return std::move(*value_);
  }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace weightcast
