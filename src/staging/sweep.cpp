#include "staging/sweep.hpp"

#include <dirent.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <string_view>
#include <vector>

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
  SweepReport report;
  for (const auto& [prefix, group] : list_groups(job)) sweep_group(prefix, group, report);
  return report;
}

}  // namespace weightcast::staging
