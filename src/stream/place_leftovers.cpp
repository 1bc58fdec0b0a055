#include "stream/place_leftovers.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string_view>

#include "base/config.hpp"
#include "base/private_directory.hpp"
#include "stream/announcement.hpp"
#include "stream/run_lock.hpp"

namespace weightcast::stream {
namespace {

constexpr std::size_t kMostPlaces = 1000;

struct CloseDir {
  void operator()(DIR* dir) const noexcept { ::closedir(dir); }
};

std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, CloseDir> dir(::opendir(path.c_str()));
  while (const dirent* entry = dir ? ::readdir(dir.get()) : nullptr) {
    names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Whether a run's rank 0 leaves a file of that name, and nobody else.
bool is_of_run(const std::string& name) {
  return parse_socket_name(name) || name == kAnnouncementFile ||
         name == std::string(kAnnouncementFile) + ".new" ||
         name == std::string(kRunLockFile) + ".new";
}

bool is_ours(int directory, const std::string& name) {
  struct stat info {};
  return ::fstatat(directory, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
         info.st_uid == ::geteuid() && (S_ISSOCK(info.st_mode) || S_ISREG(info.st_mode));
}

Result<PlaceState> visit(const std::string& place, bool remove) {
  // As who claims the place: nobody comes or goes meanwhile.
  auto changing = base::lock_private_directory(place);
  if (!changing) return changing.status();
  const int directory = changing->get();
  PlaceState state;
  state.place = place;
  auto lock = base::open_private_file(directory, kRunLockFile, O_RDWR);
  if (!lock && lock.status().code() != Code::kNotFound) return lock.status();
  if (lock) {
    const RunHolder holder = read_run_holder(lock->get());
    state.last_run = holder.run;
    state.pid = holder.pid;
    state.is_held = ::flock(lock->get(), LOCK_EX | LOCK_NB) != 0;
  }
  if (state.is_held) return state;
  for (std::string& name : names_in(place)) {
    if (!is_of_run(name) || !is_ours(directory, name)) continue;
    if (remove && ::unlinkat(directory, name.c_str(), 0) != 0) continue;
    state.files.push_back(std::move(name));
  }
  return state;
}

}  // namespace

Result<PlaceState> look_at_place(const std::string& place) { return visit(place, false); }

Result<PlaceState> clean_place(const std::string& place) { return visit(place, true); }

std::vector<std::string> list_places(const std::string& directory) {
  std::vector<std::string> places;
  // In a folder that others may change a name could lead anywhere.
  if (!base::open_private_directory(directory)) return places;
  for (const std::string& job : names_in(directory)) {
    if (!base::is_name(job) || !base::open_private_directory(directory + "/" + job)) continue;
    for (const std::string& policy : names_in(directory + "/" + job)) {
      if (base::is_name(policy) && places.size() < kMostPlaces) {
        places.push_back(directory + "/" + job + "/" + policy);
      }
    }
  }
  return places;
}

}  // namespace weightcast::stream
