#include "stream/rendezvous.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "stream/announcement.hpp"
#include "base/private_directory.hpp"
#include "stream/run_lock.hpp"

namespace weightcast::stream {
namespace {

constexpr const char* kNewAnnouncementFile = "coordinator.new";
constexpr std::size_t kMaxAnnouncementBytes = 4095;
constexpr std::size_t kMaxWord = 64;
constexpr std::size_t kMaxMeetingPath = sizeof(sockaddr_un::sun_path) - 1;
/// "/c-<16 digits, until the year 2286>-<10 digits>.sock"
constexpr std::size_t kSocketNameBytes = 1 + 2 + 16 + 1 + 10 + 5;

Status check_word(const char* what, const std::string& word) {
  const bool good = !word.empty() && word.size() <= kMaxWord &&
                    std::all_of(word.begin(), word.end(), [](char c) {
                      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                             (c >= '0' && c <= '9') || c == '_' || c == '-';
                    });
  if (good) return Status::ok();
  return {Code::kInvalid, std::string("expected a ") + what + " of 1 to " +
                              std::to_string(kMaxWord) + " characters of [A-Za-z0-9_-], got '" +
                              word + "'"};
}

Status check_base(const std::string& base) {
  const bool good = base.size() > 1 && base.front() == '/' &&
                    std::none_of(base.begin(), base.end(), [](char c) {
                      return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
                    });
  if (good) return Status::ok();
  return {Code::kInvalid, "expected the directory of the meeting place (option `directory`, "
                          "WEIGHTCAST_DIR) to begin with '/', got '" + base + "'"};
}

Status check_length(const std::string& place) {
  if (place.size() + kSocketNameBytes <= kMaxMeetingPath) return Status::ok();
  return {Code::kInvalid,
          "the meeting place '" + place + "' is " + std::to_string(place.size()) +
              " bytes long, but a socket's path has room for " +
              std::to_string(kMaxMeetingPath - kSocketNameBytes) +
              "; choose a shorter directory (option `directory`, WEIGHTCAST_DIR) or shorter names "
              "of job and policy"};
}

std::string endpoint_in(const std::string& place, const Run& run) {
  return "ipc://" + place + "/" + socket_name(run);
}

/// Later than the wall clock's time of any start before, also where the clock was set back.
Result<Run> next_run(const Run& last, const std::string& place) {
  const std::uint64_t now = base::unix_us();
  // Beyond 16 digits a socket's name would not fit: such a file is damaged.
  constexpr std::uint64_t kMaxStart = 9'999'999'999'999'999;
  if (last.started_us >= kMaxStart) {
    return Status(Code::kInvalid, "the newest run in '" + place + "/coordinator.lock' started at " +
                                      std::to_string(last.started_us) +
                                      " microseconds since 1970, which cannot be; remove that file "
                                      "and restart trainer and engines");
  }
  std::random_device random;
  return Run{.started_us = std::max(static_cast<std::uint64_t>(std::max<long long>(now, 1)),
                                    last.started_us + 1),
             .tie = static_cast<std::uint32_t>(random())};
}

bool is_our_socket(int directory, const char* name) noexcept {
  struct stat info {};
  return ::fstatat(directory, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(info.st_mode) &&
         info.st_uid == ::geteuid();
}

/// Of dead runs, and of one that was just taken over from: its members' connections stay, but
/// nobody joins it any more.
void remove_sockets(int directory) {
  const int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* entries = copy >= 0 ? ::fdopendir(copy) : nullptr;
  if (entries == nullptr) {
    if (copy >= 0) ::close(copy);
    return;
  }
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(entries)) {
    if (parse_socket_name(entry->d_name)) names.emplace_back(entry->d_name);
  }
  ::closedir(entries);
  for (const std::string& name : names) {
    if (is_our_socket(directory, name.c_str())) ::unlinkat(directory, name.c_str(), 0);
  }
}

Result<Announcement> read_from(int directory, const std::string& place) {
  auto file = base::open_private_file(directory, kAnnouncementFile, O_RDONLY);
  if (!file) return file.status();
  const auto text = base::read_small_file(file->get(), kMaxAnnouncementBytes);
  auto announcement = text ? parse_announcement(*text) : std::nullopt;
  // Another path may lead the coordinator here (a container's): the socket's name says enough.
  if (announcement) {
    const std::string_view endpoint = announcement->endpoint;
    if (endpoint.substr(endpoint.rfind('/') + 1) != socket_name(announcement->run)) {
      announcement.reset();
    }
  }
  if (!announcement) {
    return Status(Code::kInvalid, "expected a coordinator's announcement in '" + place + "/" +
                                      kAnnouncementFile +
                                      "', got something else; remove it and restart the trainer");
  }
  announcement->endpoint = endpoint_in(place, announcement->run);
  return std::move(*announcement);
}

}  // namespace

Result<std::string> meeting_place_path(const std::string& base, const std::string& runtime_dir,
                                       const std::string& job, const std::string& policy) {
  if (Status s = check_word("job name", job); !s) return s;
  if (Status s = check_word("policy name", policy); !s) return s;
  std::string path = !base.empty()          ? base
                     : !runtime_dir.empty() ? runtime_dir + "/weightcast"
                                            : "/tmp/weightcast-" + std::to_string(::geteuid());
  if (Status s = check_base(path); !s) return s;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  path += "/" + job + "/" + policy;
  if (Status s = check_length(path); !s) return s;
  return path;
}

Result<std::string> meeting_place(const std::string& base, const std::string& runtime_dir,
                                  const std::string& job, const std::string& policy) {
  auto place = meeting_place_path(base, runtime_dir, job, policy);
  if (!place) return place;
  const std::size_t of_job = place->size() - policy.size() - 1;
  for (const std::size_t length : {of_job - job.size() - 1, of_job, place->size()}) {
    auto made = base::make_private_directory(place->substr(0, length));
    if (!made) return made.status();
  }
  return place;
}

Result<Announcement> read_announcement(const std::string& place) {
  auto directory = base::open_private_directory(place);
  if (!directory) return directory.status();
  return read_from(directory->get(), place);
}

struct Rendezvous::Impl {
  std::string place;
  base::UniqueFd directory;
  RunLock lock;
  Run run;
  std::string endpoint;
};

Rendezvous::Rendezvous(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Rendezvous>> Rendezvous::claim(const std::string& place, bool takeover) {
  if (Status s = check_length(place); !s) return s;
  auto changing = base::lock_private_directory(place);
  if (!changing) return changing.status();
  // One of its own: the lock on the other goes when that is closed.
  auto directory = base::open_private_directory(place);
  if (!directory) return directory.status();
  auto lock = RunLock::acquire(directory->get(), place, takeover);
  if (!lock) return lock.status();
  auto run = next_run(lock->last_run(), place);
  if (!run) return run.status();
  remove_sockets(directory->get());
  struct stat there {};
  if (::fstatat(directory->get(), socket_name(*run).c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0) {
    return Status(Code::kExists, "'" + place + "/" + socket_name(*run) +
                                     "' is no socket of ours; remove it and start again");
  }
  if (Status s = lock->record(*run); !s) return s;
  auto impl = std::make_unique<Impl>(Impl{place, std::move(*directory), std::move(*lock), *run,
                                          endpoint_in(place, *run)});
  return std::unique_ptr<Rendezvous>(new Rendezvous(std::move(impl)));
}

Rendezvous::~Rendezvous() {
  const std::string socket = socket_name(impl_->run);
  if (is_our_socket(impl_->directory.get(), socket.c_str())) {
    ::unlinkat(impl_->directory.get(), socket.c_str(), 0);
  }
  // Where the place is being claimed right now, the claimant's announcement will replace ours.
  auto changing = base::lock_private_directory(impl_->place);
  if (!changing) return;
  const auto announced = read_from(impl_->directory.get(), impl_->place);
  if (announced && announced->run == impl_->run) {
    ::unlinkat(impl_->directory.get(), kAnnouncementFile, 0);
  }
  impl_.reset();  // gives the lock up before others may change the place
}

const Run& Rendezvous::run() const noexcept { return impl_->run; }

const std::string& Rendezvous::endpoint() const noexcept { return impl_->endpoint; }

Status Rendezvous::announce(std::uint32_t protocol) {
  auto changing = base::lock_private_directory(impl_->place);
  if (!changing) return changing.status();
  if (superseded()) {
    return {Code::kStale, "another trainer has taken over '" + impl_->place +
                              "'; stop this one, or start it again with `takeover`"};
  }
  const int directory = impl_->directory.get();
  // One that was killed in between may have left it.
  ::unlinkat(directory, kNewAnnouncementFile, 0);
  auto file = base::open_private_file(directory, kNewAnnouncementFile, O_WRONLY | O_CREAT | O_EXCL);
  if (!file) return file.status();
  const std::string text = format_announcement(
      {.protocol = protocol, .endpoint = impl_->endpoint, .run = impl_->run, .pid = ::getpid()});
  Status written = base::write_all(file->get(), text);
  if (written && ::renameat(directory, kNewAnnouncementFile, directory, kAnnouncementFile) != 0) {
    written = {Code::kDenied, "cannot replace '" + impl_->place + "/" + kAnnouncementFile +
                                  "'; remove what lies there"};
  }
  if (!written) ::unlinkat(directory, kNewAnnouncementFile, 0);
  return written;
}

bool Rendezvous::superseded() const noexcept {
  return !impl_->lock.still_ours(impl_->directory.get());
}

}  // namespace weightcast::stream
