#include "protocol/wire_limits.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "protocol/wire.hpp"

namespace weightcast::protocol {
namespace {

using Bytes = std::span<const std::byte>;

/// The messages of proto/weightcast.proto that hold a repeated field, or lead to one that does.
enum class Kind { kEnvelope, kSealed, kPrepare, kCapturing, kAhead, kManifest, kShare, kEntry, kOrders, kVerdict, kAnswer, kStatus, kNone };

enum class Form {
  kMessage,   ///< one element (or the only one) of kind `child`
  kString,    ///< one element a field; also of messages without lists
  kIntegers,  ///< varints, packed or not
};

struct Rule {
  Kind kind;
  std::uint32_t field;
  Form form;
  Kind child;
  std::size_t limit;  ///< of elements in the message (kIntegers: in one message of `kind`)
  const char* what;
};

constexpr std::size_t kAny = ~std::size_t{0};

// Field numbers as in proto/weightcast.proto.
constexpr std::array kRules{
    Rule{Kind::kEnvelope, 18, Form::kMessage, Kind::kSealed, kAny, "sealed"},
    Rule{Kind::kEnvelope, 24, Form::kMessage, Kind::kOrders, kAny, "source_orders"},
    Rule{Kind::kEnvelope, 25, Form::kMessage, Kind::kPrepare, kAny, "prepare"},
    Rule{Kind::kEnvelope, 27, Form::kMessage, Kind::kVerdict, kAny, "verdict"},
    Rule{Kind::kEnvelope, 28, Form::kMessage, Kind::kCapturing, kAny, "capturing"},
    Rule{Kind::kEnvelope, 29, Form::kMessage, Kind::kAhead, kAny, "ahead"},
    Rule{Kind::kEnvelope, 31, Form::kMessage, Kind::kAnswer, kAny, "status_answer"},
    Rule{Kind::kAnswer, 2, Form::kMessage, Kind::kStatus, kAny, "status"},
    Rule{Kind::kStatus, 19, Form::kString, Kind::kNone, kMaxMembersShown, "trainer ranks"},
    Rule{Kind::kStatus, 20, Form::kString, Kind::kNone, kMaxMembersShown, "engines"},
    Rule{Kind::kStatus, 22, Form::kString, Kind::kNone, kMaxGoneShown, "former members"},
    Rule{Kind::kSealed, 4, Form::kMessage, Kind::kShare, kAny, "share"},
    Rule{Kind::kPrepare, 3, Form::kMessage, Kind::kManifest, kAny, "manifest"},
    Rule{Kind::kCapturing, 3, Form::kMessage, Kind::kShare, kAny, "share"},
    Rule{Kind::kAhead, 2, Form::kMessage, Kind::kManifest, kAny, "manifest"},
    Rule{Kind::kManifest, 1, Form::kMessage, Kind::kShare, kMaxRanks, "shares"},
    Rule{Kind::kShare, 5, Form::kMessage, Kind::kEntry, plan::kMaxTensors, "tensors"},
    Rule{Kind::kEntry, 2, Form::kString, Kind::kNone, plan::kMaxTensors, "aliases"},
    Rule{Kind::kEntry, 4, Form::kIntegers, Kind::kNone, plan::kMaxDims, "dimensions of a tensor"},
    Rule{Kind::kEntry, 9, Form::kIntegers, Kind::kNone, plan::kMaxDims, "dimensions of a tensor"},
    Rule{Kind::kEntry, 10, Form::kIntegers, Kind::kNone, plan::kMaxDims, "dimensions of a tensor"},
    Rule{Kind::kOrders, 7, Form::kIntegers, Kind::kNone, kMaxKeep, "points to keep"},
    Rule{Kind::kVerdict, 3, Form::kString, Kind::kNone, kMaxListed, "receivers that applied"},
    Rule{Kind::kVerdict, 4, Form::kString, Kind::kNone, kMaxListed, "lost receivers"},
};

const Rule* find_rule(Kind kind, std::uint32_t field) noexcept {
  for (const Rule& rule : kRules) {
    if (rule.kind == kind && rule.field == field) return &rule;
  }
  return nullptr;
}

Status malformed() {
  return {Code::kInvalid, "expected a message of weightcast, got bytes that are none"};
}

class Walker {
 public:
  // The depth is that of the rules: Envelope, Prepare, Manifest, Share, Entry.
  Status walk(Bytes bytes, Kind kind) {
    std::array<std::size_t, kRules.size()> integers{};
    while (!bytes.empty()) {
      std::uint64_t tag = 0;
      if (!take_varint(bytes, tag) || tag > 0xffff'ffffu || (tag >> 3) == 0) return malformed();
      const Rule* rule = find_rule(kind, static_cast<std::uint32_t>(tag >> 3));
      std::size_t* count = nullptr;
      if (rule != nullptr) {
        const auto i = static_cast<std::size_t>(rule - kRules.data());
        count = rule->form == Form::kIntegers ? &integers[i] : &counts_[i];
      }
      std::uint64_t value = 0;
      switch (tag & 7) {
        case 0:
          if (!take_varint(bytes, value)) return malformed();
          if (rule != nullptr && rule->form == Form::kIntegers) ++*count;
          break;
        case 1:
          if (!skip(bytes, 8)) return malformed();
          break;
        case 5:
          if (!skip(bytes, 4)) return malformed();
          break;
        case 2: {
          if (!take_varint(bytes, value) || value > bytes.size()) return malformed();
          const Bytes inner = bytes.first(static_cast<std::size_t>(value));
          bytes = bytes.subspan(inner.size());
          if (rule == nullptr) break;
          *count += rule->form == Form::kIntegers ? count_varints(inner) : 1;
          if (*count > rule->limit) break;  // before the walk into it
          if (rule->form == Form::kMessage) {
            if (Status s = walk(inner, rule->child); !s) return s;
          }
          break;
        }
        default:  // groups, which we never use, and wire types that do not exist
          return malformed();
      }
      if (rule != nullptr && *count > rule->limit) {
        return {Code::kInvalid, std::string("expected at most ") + std::to_string(rule->limit) +
                                    " " + rule->what + ", got more"};
      }
    }
    return Status::ok();
  }

 private:
  static bool skip(Bytes& bytes, std::size_t n) noexcept {
    if (bytes.size() < n) return false;
    bytes = bytes.subspan(n);
    return true;
  }

  static bool take_varint(Bytes& bytes, std::uint64_t& value) noexcept {
    value = 0;
    for (std::size_t i = 0; i < std::min<std::size_t>(bytes.size(), 10); ++i) {
      const auto byte = std::to_integer<std::uint64_t>(bytes[i]);
      value |= (byte & 0x7f) << (7 * i);
      if (byte < 0x80) return skip(bytes, i + 1);
    }
    return false;
  }

  /// Each varint ends with the one byte whose top bit is clear.
  static std::size_t count_varints(Bytes bytes) noexcept {
    return static_cast<std::size_t>(std::count_if(
        bytes.begin(), bytes.end(), [](std::byte b) { return (b & std::byte{0x80}) == std::byte{0}; }));
  }

  std::array<std::size_t, kRules.size()> counts_{};
};

}  // namespace

Status check_limits(std::span<const std::byte> bytes) {
  return Walker().walk(bytes, Kind::kEnvelope);
}

}  // namespace weightcast::protocol
