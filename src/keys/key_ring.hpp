// Who may talk to whom: CURVE key pairs, one for each role, and the lists of those that are
// allowed.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include <weightcast/status.hpp>

namespace weightcast::keys {

/// What a process is to its peers. A key belongs to one role.
enum class Role { kTrainer, kEngine };

/// "trainer" or "engine".
std::string_view role_name(Role role) noexcept;

/// A CURVE key pair as ZeroMQ writes it: 40 characters of Z85 each.
struct KeyPair {
  std::string public_key;
  std::string secret_key;
};

/// The keys of a folder, as one role sees them:
///   <role>.public   the role's public key            <role>.secret   its secret one (owner-only)
///   <role>.allowed  public keys that count as that role, one a line; `#` begins a comment
/// A process needs its own role's secret key, the other's public one, and both lists.
/// Immutable once loaded; thread safe.
class KeyRing {
 public:
  /// Reads a folder that `weightcast keygen` made.
  /// @return kNotFound where the folder or a file is missing (the message says which command makes
  ///   it), kDenied where others may read a secret key or write to the folder, kInvalid for
  ///   contents
  static Result<KeyRing> load(const std::string& folder, Role own);

  /// As load(), but makes the folder where there is none, for members that meet on one host;
  /// whoever comes first. It is there with all its files or not at all; others wait for at most 5
  /// s. The folder's parent must be private to this user (base/private_directory.hpp).
  static Result<KeyRing> load_or_make(const std::string& folder, Role own);

  /// Makes new pairs for both roles, and lists that allow them, whole or not at all. @return
  /// kExists where there is anything in the folder, kNotFound where there is no directory for it,
  /// kDenied
  static Status make(const std::string& folder);

  Role role() const noexcept { return role_; }
  const KeyPair& own() const noexcept { return own_; }
  /// The public key of servers of that role (Z85).
  const std::string& server_key(Role role) const { return server_keys_.at(role); }
  /// The role of a client's public key, 32 bytes as ZAP hands them over; none: not allowed.
  std::optional<Role> role_of(std::string_view raw_public_key) const;

 private:
  Role role_ = Role::kTrainer;
  KeyPair own_;
  std::map<Role, std::string> server_keys_;
  std::map<Role, std::set<std::string>> allowed_;  ///< Z85
};

}  // namespace weightcast::keys
