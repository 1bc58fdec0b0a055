// Modelled shared memory, in which tearing can really happen: words are written one by one over
// time, and only locks, generations and digests stand between a writer and a reader.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <weightcast/types.hpp>

#include "base/digest.hpp"
#include "simulation/truth.hpp"

namespace weightcast::simulation {

/// A slot as staging::Slab and staging::SlotReader see it: header, payload, and the flocks of
/// processes, which stopped ones keep and dead ones lose.
struct SlotObject {
  enum class State { kEmpty, kWriting, kSealed };
  std::string name;
  Pid owner = 0;
  State state = State::kEmpty;
  std::uint64_t generation = 0;
  Version version;
  std::vector<Word> words;
  std::size_t written = 0;   ///< of this generation: words from the beginning that are final
  std::vector<Pid> readers;  ///< one entry a shared lock
  Pid writer = 0;            ///< holder of the exclusive lock; 0 nobody
  bool linked = true;
};

/// Additive and position-mixing, as codec/digest.hpp is.
base::Digest digest_of(const Word* words, std::size_t count);

class Memory {
 public:
  explicit Memory(Truth& truth) : truth_(truth) {}

  std::shared_ptr<SlotObject> create(Pid owner, std::string name, std::size_t words);
  /// Null where the object is gone (or never was).
  std::shared_ptr<SlotObject> open(const std::string& name) const;

  bool try_exclusive(SlotObject& slot, Pid pid);
  void unlock_exclusive(SlotObject& slot, Pid pid);
  bool try_shared(SlotObject& slot, Pid pid);
  void unlock_shared(SlotObject& slot, Pid pid);

  // The owner's writes.
  void begin_write(SlotObject& slot, Pid pid);
  void write(SlotObject& slot, Pid pid, std::size_t index, Word word);
  void seal(SlotObject& slot, Pid pid, const Version& version);

  void drop_locks_of(Pid pid);
  /// Unlinks what dead owners left and nobody holds, as staging::sweep does.
  template <class Alive>
  void sweep(Alive alive) {
    for (auto it = objects_.begin(); it != objects_.end();) {
      SlotObject& slot = *it->second;
      const bool leftover = !alive(slot.owner) && slot.readers.empty() && slot.writer == 0;
      if (leftover) slot.linked = false;
      it = leftover ? objects_.erase(it) : std::next(it);
    }
  }

  std::uint64_t refused_because_locked() const noexcept { return refused_; }

 private:
  void check_writer(const SlotObject& slot, Pid pid, const char* what);

  Truth& truth_;
  std::map<std::string, std::shared_ptr<SlotObject>> objects_;
  std::uint64_t refused_ = 0;
};

}  // namespace weightcast::simulation
