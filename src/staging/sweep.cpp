#include "staging/sweep.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/unique_fd.hpp"
#include "staging/object_name.hpp"
#include "staging/shm_object.hpp"

namespace weightcast::staging {
namespace {

struct Group {
  bool has_anchor = false;
  bool is_board = false;  ///< which is its own anchor
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
      group.is_board = parsed->is_board;
    }
  }
  return groups;
}

/// Looks at the objects of one slab, and where `remove` unlinks those that are free: `free` then
/// names what is gone. Empty where it cannot be told, or somebody else has just swept it.
std::optional<SlabRemains> visit(const std::string& prefix, const Group& group, bool remove) {
  SlabRemains remains;
  remains.prefix = prefix;
  remains.is_board = group.is_board;
  remains.objects = group.objects();
  const std::string anchor_path = group.is_board ? board_name(prefix) : anchor_name(prefix);
  // An owner creates its anchor before the first slot, so it is looked for by name: the listing
  // may have missed it.
  const auto anchor = open_object(anchor_path, boost::interprocess::read_only);
  if (!anchor && anchor.status().code() != Code::kNotFound) return std::nullopt;
  if (anchor) {
    const int fd = descriptor(*anchor);
    remains.is_alive = !try_lock_exclusive(fd);
    // Whoever has the name now is not this one.
    if (!remains.is_alive && !still_linked(fd)) return std::nullopt;
  }
  // From here on the anchor's lock keeps a new owner of the same name and other sweeps away.
  const auto take = [&](const std::string& name) {
    if (!remove || unlink_object(name)) remains.free.push_back(name);
  };
  for (const std::string& name : group.slots) {
    const auto slot = open_object(name, boost::interprocess::read_only);
    if (!slot) continue;
    struct stat info {};
    if (::fstat(descriptor(*slot), &info) == 0) {
      remains.bytes += static_cast<std::uint64_t>(info.st_blocks) * 512;
    }
    if (remains.is_alive) continue;
    if (!try_lock_exclusive(descriptor(*slot))) {
      ++remains.held;
    } else {
      take(name);
    }
  }
  // With its anchor, a slot that is still held is known for a dead owner's next time, too.
  if (anchor && !remains.is_alive && remains.held == 0) take(anchor_path);
  return remains;
}

}  // namespace

std::vector<SlabRemains> survey(const std::string& job) {
  const SweepTurn turn;
  std::vector<SlabRemains> all;
  for (const auto& [prefix, group] : list_groups(job)) {
    if (auto remains = visit(prefix, group, false)) all.push_back(std::move(*remains));
  }
  return all;
}

SweepReport sweep(const std::string& job) {
  const SweepTurn turn;
  SweepReport report;
  for (const auto& [prefix, group] : list_groups(job)) {
    const auto remains = visit(prefix, group, true);
    if (!remains) continue;
    if (remains->is_alive) report.alive += remains->objects;
    report.held += remains->held;
    report.removed += static_cast<std::uint32_t>(remains->free.size());
    report.names.insert(report.names.end(), remains->free.begin(), remains->free.end());
  }
  return report;
}

}  // namespace weightcast::staging
