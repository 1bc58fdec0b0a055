#include "staging/sweep.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <string_view>
#include <vector>

#include "base/unique_fd.hpp"
#include "staging/object_name.hpp"
#include "staging/shm_object.hpp"

namespace weightcast::staging {
namespace {

struct Group {
  bool has_anchor = false;
  std::vector<std::string> slots;
  std::uint32_t objects() const noexcept {
    return static_cast<std::uint32_t>(slots.size()) + (has_anchor ? 1U : 0U);
  }
};

/// One sweep at a time: of two at once each could leave to the other what that one was about to
/// let go, and both an anchor that the other has locked. A sweep takes far less than a millisecond;
/// who cannot get its turn (a stopped process has it) goes on without.
class SweepTurn {
 public:
  SweepTurn() : directory_(::open(kShmDirectory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    constexpr int kTries = 20;
    for (int i = 0; directory_ && i < kTries; ++i) {
      if (::flock(directory_.get(), LOCK_EX | LOCK_NB) == 0) return;
      ::poll(nullptr, 0, 1);
    }
  }

 private:
  base::UniqueFd directory_;
};

/// What lies in the directory, by the owner's prefix.
std::map<std::string, Group> list_groups(const std::string& job) {
  std::map<std::string, Group> groups;
  struct CloseDir {
    void operator()(DIR* dir) const noexcept { ::closedir(dir); }
  };
  const std::unique_ptr<DIR, CloseDir> dir(::opendir(kShmDirectory));
  if (!dir) return groups;
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string_view name = entry->d_name;
    const auto parsed = parse_object_name(name);
    if (!parsed || parsed->uid != ::geteuid()) continue;
    if (!job.empty() && parsed->owner.job != job) continue;
    Group& group = groups[std::string(prefix_of(name))];
    if (parsed->slot) {
      group.slots.emplace_back(name);
    } else {
      group.has_anchor = true;
    }
  }
  return groups;
}

void sweep_group(const std::string& prefix, const Group& group, SweepReport& report) {
  const std::string anchor_path = anchor_name(prefix);
  // An owner creates its anchor before the first slot, so it is looked for by name: the listing
  // may have missed it.
  const auto anchor = open_object(anchor_path, boost::interprocess::read_only);
  if (!anchor && anchor.status().code() != Code::kNotFound) return;
  if (anchor) {
    const int fd = descriptor(*anchor);
    if (!try_lock_exclusive(fd)) {
      report.alive += group.objects();
      return;
    }
    // Somebody else has just swept it; whoever has the name now is not this one.
    if (!still_linked(fd)) return;
  }
  // From here on the anchor's lock keeps a new owner of the same name and other sweeps away.
  std::uint32_t held = 0;
  for (const std::string& name : group.slots) {
    const auto slot = open_object(name, boost::interprocess::read_only);
    if (!slot) continue;
    if (!try_lock_exclusive(descriptor(*slot))) {
      ++held;
    } else if (unlink_object(name)) {
      ++report.removed;
    }
  }
  report.held += held;
  // With its anchor, a slot that is still held is known for a dead owner's next time, too.
  if (anchor && held == 0 && unlink_object(anchor_path)) ++report.removed;
}

}  // namespace

SweepReport sweep(const std::string& job) {
  const SweepTurn turn;
  SweepReport report;
  for (const auto& [prefix, group] : list_groups(job)) sweep_group(prefix, group, report);
  return report;
}

}  // namespace weightcast::staging
