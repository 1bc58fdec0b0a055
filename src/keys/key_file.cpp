#include "keys/key_file.hpp"

#include <zmq.h>

#include <algorithm>
#include <array>

namespace weightcast::keys {
namespace {

constexpr std::string_view kBlanks = " \t\r";

std::string_view without_blanks(std::string_view line) {
  const auto first = line.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return line.substr(first, line.find_last_not_of(kBlanks) - first + 1);
}

/// The key of a line without its comment; empty where there is none.
std::optional<std::string_view> key_of(std::string_view line) {
  line = without_blanks(line);
  if (line.empty() || line.front() == '#') return std::string_view();
  const std::string_view key = line.substr(0, kKeyCharacters);
  const std::string_view rest = line.substr(key.size());
  const std::string_view comment = without_blanks(rest);
  const bool apart = rest.empty() || kBlanks.find(rest.front()) != std::string_view::npos;
  if (!is_key(key) || !apart || (!comment.empty() && comment.front() != '#')) return std::nullopt;
  return key;
}

}  // namespace

std::string encode_key(std::string_view raw) {
  if (raw.size() != kRawKeyBytes) return {};
  std::array<char, kKeyCharacters + 1> text{};
  if (zmq_z85_encode(text.data(), reinterpret_cast<const std::uint8_t*>(raw.data()), raw.size()) ==
      nullptr) {
    return {};
  }
  return text.data();
}

bool is_key(std::string_view text) {
  // ZeroMQ's decoder takes bytes beyond its table and groups beyond 32 bits for what they are not.
  if (text.size() != kKeyCharacters ||
      !std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; })) {
    return false;
  }
  std::array<std::uint8_t, kRawKeyBytes> raw{};
  return zmq_z85_decode(raw.data(), std::string(text).c_str()) != nullptr &&
         encode_key({reinterpret_cast<const char*>(raw.data()), raw.size()}) == text;
}

Result<std::vector<std::string>> parse_keys(std::string_view text, const std::string& what) {
  std::vector<std::string> keys;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto end = std::min(text.find('\n'), text.size());
    const auto key = key_of(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!key) {
      return Status(
          Code::kInvalid,
          "line " + std::to_string(number) + " of " + what +
              ": expected a key of 40 characters of Z85 or a comment that begins with '#', "
              "got something else; copy the file again, or make new keys");
    }
    if (key->empty()) continue;
    if (keys.size() == kMaxListedKeys) {
      return Status(Code::kInvalid, "expected at most " + std::to_string(kMaxListedKeys) +
                                        " keys in " + what + ", got more; remove old ones");
    }
    keys.emplace_back(*key);
  }
  return keys;
}

Result<KeyPair> make_pair() {
  std::array<char, kKeyCharacters + 1> public_key{};
  std::array<char, kKeyCharacters + 1> secret_key{};
  if (zmq_curve_keypair(public_key.data(), secret_key.data()) != 0) {
    return Status(Code::kInternal, std::string("cannot make keys: ") + zmq_strerror(zmq_errno()) +
                                       "; use a ZeroMQ that is built with CURVE (libsodium)");
  }
  return KeyPair{public_key.data(), secret_key.data()};
}

std::optional<std::string> public_key_of(const std::string& secret_key) {
  std::array<char, kKeyCharacters + 1> public_key{};
  if (!is_key(secret_key) || zmq_curve_public(public_key.data(), secret_key.c_str()) != 0) {
    return std::nullopt;
  }
  return public_key.data();
}

}  // namespace weightcast::keys
