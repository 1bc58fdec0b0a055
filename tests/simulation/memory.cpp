#include "simulation/memory.hpp"

#include <algorithm>

namespace weightcast::simulation {

base::Digest digest_of(const Word* words, std::size_t count) {
  base::Digest sum;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t x = words[i] + (i + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    sum += base::Digest{x, x ^ (x >> 31)};
  }
  return sum;
}

std::shared_ptr<SlotObject> Memory::create(Pid owner, std::string name, std::size_t words) {
  auto slot = std::make_shared<SlotObject>();
  slot->name = std::move(name);
  slot->owner = owner;
  slot->words.assign(words, 0);
  objects_[slot->name] = slot;
  return slot;
}

std::shared_ptr<SlotObject> Memory::open(const std::string& name) const {
  const auto found = objects_.find(name);
  return found == objects_.end() ? nullptr : found->second;
}

bool Memory::try_exclusive(SlotObject& slot, Pid pid) {
  if (!slot.readers.empty() || (slot.writer != 0 && slot.writer != pid)) {
    ++refused_;
    return false;
  }
  slot.writer = pid;
  return true;
}

void Memory::unlock_exclusive(SlotObject& slot, Pid pid) {
  if (slot.writer == pid) slot.writer = 0;
}

bool Memory::try_shared(SlotObject& slot, Pid pid) {
  if (slot.writer != 0) return false;
  slot.readers.push_back(pid);
  return true;
}

void Memory::unlock_shared(SlotObject& slot, Pid pid) {
  const auto found = std::find(slot.readers.begin(), slot.readers.end(), pid);
  if (found != slot.readers.end()) slot.readers.erase(found);
}

void Memory::check_writer(const SlotObject& slot, Pid pid, const char* what) {
  if (!slot.readers.empty()) {
    truth_.fail("slot", std::string(what) + " of " + slot.name + " while process " +
                            std::to_string(slot.readers.front()) + " reads it");
  } else if (slot.writer != pid) {
    truth_.fail("slot", std::string(what) + " of " + slot.name + " without its lock");
  }
}

void Memory::begin_write(SlotObject& slot, Pid pid) {
  check_writer(slot, pid, "beginning a write");
  slot.state = SlotObject::State::kWriting;
  ++slot.generation;
  slot.written = 0;
}

void Memory::write(SlotObject& slot, Pid pid, std::size_t index, Word word) {
  check_writer(slot, pid, "a write");
  slot.words[index] = word;
  if (index == slot.written) ++slot.written;
}

void Memory::seal(SlotObject& slot, Pid pid, const Version& version) {
  check_writer(slot, pid, "the seal");
  slot.version = version;
  slot.state = SlotObject::State::kSealed;
  slot.written = slot.words.size();
}

void Memory::drop_locks_of(Pid pid) {
  for (auto& [name, slot] : objects_) {
    std::erase(slot->readers, pid);
    if (slot->writer == pid) slot->writer = 0;
  }
}

}  // namespace weightcast::simulation
