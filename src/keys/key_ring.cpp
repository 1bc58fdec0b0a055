#include "keys/key_ring.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <utility>
#include <vector>

#include <weightcast/keys.hpp>

#include "base/errno_text.hpp"
#include "base/private_directory.hpp"
#include "keys/key_file.hpp"

namespace weightcast::keys {
namespace {

constexpr std::array kRoles{Role::kTrainer, Role::kEngine};
constexpr std::array kEndings{".secret", ".public", ".allowed"};
constexpr const char* kAdvice = "choose another folder of keys (option `keys`)";
/// Others may know public keys. The folder that holds them may be read too, but not written to.
constexpr base::Privacy kPublic{.others_may_read = true, .advice = kAdvice};
constexpr base::Privacy kSecret{.others_may_read = false, .advice = kAdvice};
/// For a process that is making keys meanwhile: some milliseconds, where it is not stopped.
constexpr std::chrono::milliseconds kPatience{5000};

std::string file_of(Role role, const char* ending) { return std::string(role_name(role)) + ending; }

Status not_found(const std::string& what) {
  return {Code::kNotFound, what +
                               " does not exist; make keys with `weightcast keygen --directory " +
                               "DIR` once, and copy them to every host that takes part"};
}

Result<std::vector<std::string>> read_keys(int folder, const std::string& path,
                                           const std::string& name, const base::Privacy& privacy) {
  const std::string what = "'" + path + "/" + name + "'";
  auto file = base::open_private_file(folder, name.c_str(), O_RDONLY, privacy);
  if (!file && file.status().code() == Code::kNotFound) return not_found(what);
  if (!file) return Status(file.status().code(), "in '" + path + "': " + file.status().message());
  auto text = base::read_small_file(file->get(), kMaxKeyFileBytes);
  if (!text) return Status(text.status().code(), what + ": " + text.status().message());
  return parse_keys(*text, what);
}

Result<std::string> read_one_key(int folder, const std::string& path, const std::string& name,
                                 const base::Privacy& privacy) {
  auto keys = read_keys(folder, path, name, privacy);
  if (!keys) return keys.status();
  if (keys->size() == 1) return std::move(keys->front());
  return Status(Code::kInvalid, "expected one key in '" + path + "/" + name + "', got " +
                                    std::to_string(keys->size()) +
                                    "; copy the file again, or make new keys");
}

Status write_file(int folder, const std::string& name, const std::string& text) {
  auto file = base::open_private_file(folder, name.c_str(), O_WRONLY | O_CREAT | O_EXCL, kSecret);
  if (!file) return file.status();
  if (Status s = base::write_all(file->get(), text); !s) {
    return {s.code(), "file '" + name + "': " + s.message()};
  }
  if (::fsync(file->get()) != 0) return {Code::kDenied, "cannot store file '" + name + "'"};
  return Status::ok();
}

Status write_keys_of(int folder, Role role) {
  auto pair = make_pair();
  if (!pair) return pair.status();
  const std::string who(role_name(role));
  const std::string lines[] = {
      "# Secret key of this job's " + who + "s. Nobody else may read it.\n" + pair->secret_key +
          "\n",
      "# Public key of this job's " + who + "s.\n" + pair->public_key + "\n",
      "# Public keys that count as " + who + "s, one a line.\n" + pair->public_key + "\n"};
  for (std::size_t i = 0; i < kEndings.size(); ++i) {
    if (Status s = write_file(folder, file_of(role, kEndings[i]), lines[i]); !s) return s;
  }
  return Status::ok();
}

/// What an attempt that was ended in the middle left, files of ours alone.
void remove_half_made(const std::string& path) {
  if (auto folder = base::open_private_directory(path, kSecret)) {
    for (const Role role : kRoles) {
      for (const char* ending : kEndings) {
        ::unlinkat(folder->get(), file_of(role, ending).c_str(), 0);
      }
    }
  }
  ::rmdir(path.c_str());
}

/// Makes the folder whole under another name and then gives it its own, so that it is there with
/// all its files or not at all.
Status make_folder(const std::string& folder) {
  const std::string half = folder + ".new";
  if (::mkdir(half.c_str(), 0700) != 0) {
    const int error = errno;
    if (error == EEXIST) {
      return {Code::kExists, "'" + half +
                                 "' exists: another process makes keys there, or one was " +
                                 "ended in the middle; wait for it, or remove that directory"};
    }
    return {error == ENOENT ? Code::kNotFound : Code::kDenied,
            "cannot make directory '" + half + "': " + base::errno_text(error) +
                "; name a folder inside a directory that exists and that you may write to"};
  }
  Status made;
  {
    auto opened = base::open_private_directory(half, kSecret);
    if (!opened) made = opened.status();
    for (const Role role : kRoles) {
      if (made) made = write_keys_of(opened->get(), role);
    }
  }
  // Takes the place of an empty directory, and of nothing else.
  if (made && ::rename(half.c_str(), folder.c_str()) != 0) {
    const int error = errno;
    const bool taken = error == ENOTEMPTY || error == EEXIST || error == ENOTDIR;
    made = {taken ? Code::kExists : Code::kDenied,
            taken
                ? "'" + folder + "' exists already and is not empty; keys are never overwritten: " +
                      "remove it if no job uses them, or name another folder"
                : "cannot make directory '" + folder +
                      "': " + base::errno_text(error) + "; name another folder"};
  }
  if (!made) remove_half_made(half);
  return made;
}

std::string without_slashes(std::string folder) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return folder;
}

}  // namespace

std::string_view role_name(Role role) noexcept {
  return role == Role::kTrainer ? "trainer" : "engine";
}

Result<KeyRing> KeyRing::load(const std::string& folder, Role own) {
  auto opened = base::open_private_directory(folder, kPublic);
  if (!opened && opened.status().code() == Code::kNotFound) return not_found("'" + folder + "'");
  if (!opened) return opened.status();
  const int fd = opened->get();
  KeyRing ring;
  ring.role_ = own;
  for (const Role role : kRoles) {
    auto key = read_one_key(fd, folder, file_of(role, ".public"), kPublic);
    if (!key) return key.status();
    ring.server_keys_[role] = std::move(*key);
    auto allowed = read_keys(fd, folder, file_of(role, ".allowed"), kPublic);
    if (!allowed) return allowed.status();
    ring.allowed_[role] = {allowed->begin(), allowed->end()};
  }
  for (const std::string& key : ring.allowed_[Role::kTrainer]) {
    if (ring.allowed_[Role::kEngine].contains(key)) {
      return Status(Code::kInvalid, "key " + key + " stands in '" + folder +
                                        "/trainer.allowed' and in engine.allowed; a key belongs to "
                                        "one role: remove it from one of them");
    }
  }
  auto secret = read_one_key(fd, folder, file_of(own, ".secret"), kSecret);
  if (!secret) return secret.status();
  const auto derived = public_key_of(*secret);
  if (!derived || *derived != ring.server_keys_[own]) {
    return Status(Code::kInvalid, "the keys in '" + folder + "/" + file_of(own, ".secret") +
                                      "' and " + file_of(own, ".public") +
                                      " do not belong together; copy both from one folder that "
                                      "`weightcast keygen` made");
  }
  ring.own_ = {*derived, std::move(*secret)};
  return ring;
}

Result<KeyRing> KeyRing::load_or_make(const std::string& folder, Role own) {
  const std::string path = without_slashes(folder);
  const auto slash = path.rfind('/');
  if (slash == std::string::npos || slash == 0) {
    return Status(Code::kInvalid,
                  "expected the folder of keys inside a directory of this user "
                  "alone, got '" +
                      folder + "'");
  }
  struct stat there{};
  if (::lstat(path.c_str(), &there) != 0 && errno == ENOENT) {
    auto changing = base::lock_private_directory(path.substr(0, slash), kPatience);
    if (!changing) return changing.status();
    if (::lstat(path.c_str(), &there) != 0 && errno == ENOENT) {
      remove_half_made(path + ".new");  // under the lock nobody is making it
      if (Status s = make_folder(path); !s) return s;
    }
  }
  auto ring = load(path, own);
  if (ring || ring.status().code() != Code::kNotFound) return ring;
  return Status(Code::kNotFound,
                "a file of the keys that this host's processes made for themselves "
                "is gone; remove '" +
                    path + "' while no process of the job runs: " + ring.status().message());
}

Status KeyRing::make(const std::string& folder) {
  if (folder.empty()) return {Code::kInvalid, "expected a folder for the keys, got an empty name"};
  return make_folder(without_slashes(folder));
}

std::optional<Role> KeyRing::role_of(std::string_view raw_public_key) const {
  const std::string key = encode_key(raw_public_key);
  if (key.empty()) return std::nullopt;
  for (const auto& [role, keys] : allowed_) {
    if (keys.contains(key)) return role;
  }
  return std::nullopt;
}

}  // namespace weightcast::keys

namespace weightcast {

Status make_keys(const std::string& folder) {
  try {
    return keys::KeyRing::make(folder);
  } catch (const std::exception& error) {
    return Status(Code::kExhausted, std::string("cannot make keys: ") + error.what());
  }
}

}  // namespace weightcast
