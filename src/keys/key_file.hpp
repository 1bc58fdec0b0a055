// The text of key files: keys of 40 characters of Z85, one a line, and comments.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <weightcast/status.hpp>

#include "keys/key_ring.hpp"

namespace weightcast::keys {

inline constexpr std::size_t kRawKeyBytes = 32;
inline constexpr std::size_t kKeyCharacters = 40;
inline constexpr std::size_t kMaxListedKeys = 10'000;
inline constexpr std::size_t kMaxKeyFileBytes = std::size_t{1} << 20;

/// Z85 of 32 bytes; empty where `raw` is of another length.
std::string encode_key(std::string_view raw);

/// Whether `text` is what encode_key() writes for some 32 bytes.
bool is_key(std::string_view text);

/// The keys of a file, one a line. A `#` at the beginning of a line, or after a key and a blank,
/// begins a comment (no key begins with one). Nothing else is read, and no message quotes the text.
/// @param what names the file in messages
/// @return kInvalid, with the line's number
Result<std::vector<std::string>> parse_keys(std::string_view text, const std::string& what);

/// A new pair. @return kInternal where ZeroMQ was built without CURVE
Result<KeyPair> make_pair();

/// The public key that belongs to a secret one.
std::optional<std::string> public_key_of(const std::string& secret_key);

}  // namespace weightcast::keys
