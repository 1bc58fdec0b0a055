#include "simulation/remote.hpp"

#include <utility>

#include "simulation/world.hpp"

namespace weightcast::simulation {
namespace {
/// A reader that is not heard this long is let go of.
constexpr Duration kSilence = 300ms;
}  // namespace

Remote::Id Remote::hold_slot(Pid reader, const plan::Share& share, const Version& version,
                             Status& why) {
  const auto slot = world_.memory.open(share.object);
  if (slot == nullptr) {
    why = Status(Code::kNotFound, share.object + " is gone");
    return 0;
  }
  const bool locked = world_.memory.try_shared(*slot, slot->owner);
  const bool same = slot->state == SlotObject::State::kSealed && slot->version == version &&
                    slot->generation == share.generation;
  if (!locked || !same) {
    if (locked) world_.memory.unlock_shared(*slot, slot->owner);
    ++world_.truth.coverage.stale_slots;
    why = Status(Code::kStale, share.object + " holds something else");
    return 0;
  }
  holds_[++last_] = Hold{reader, slot->owner, slot, nullptr, world_.events.now()};
  look_later(last_);
  return last_;
}

Remote::Id Remote::hold_image(Pid reader, Pid holder,
                              std::shared_ptr<const std::vector<Word>> words) {
  holds_[++last_] = Hold{reader, holder, nullptr, std::move(words), world_.events.now()};
  look_later(last_);
  return last_;
}

void Remote::look_later(Id id) {
  world_.events.after(kSilence / 2, [this, id] {
    const auto found = holds_.find(id);
    if (found == holds_.end()) return;
    if (world_.events.now() - found->second.heard > kSilence) {
      release(id);
    } else {
      look_later(id);
    }
  });
}

const std::vector<Word>* Remote::read(Id id) {
  const auto found = holds_.find(id);
  if (found == holds_.end()) return nullptr;
  found->second.heard = world_.events.now();
  return found->second.slot != nullptr ? &found->second.slot->words : found->second.image.get();
}

Pid Remote::holder(Id id) const {
  const auto found = holds_.find(id);
  return found == holds_.end() ? 0 : found->second.holder;
}

void Remote::release(Id id) {
  const auto found = holds_.find(id);
  if (found == holds_.end()) return;
  const Hold hold = std::move(found->second);
  holds_.erase(found);
  if (hold.slot != nullptr) world_.memory.unlock_shared(*hold.slot, hold.holder);
}

void Remote::forget(Pid pid) {
  // A dead holder's locks go with it; a dead reader's are kept until it has been silent long enough.
  std::erase_if(holds_, [&](const auto& entry) { return entry.second.holder == pid; });
}

}  // namespace weightcast::simulation
