// How a simulated engine reads behind the writers of a version that does not exist yet. Without locks:
// what it has counts only once the version is sealed in the same writing of the same slots and its digests
// say so.
#include <algorithm>

#include "simulation/engine.hpp"
#include "simulation/world.hpp"

namespace weightcast::simulation {
namespace {
constexpr Duration kPatience = 500ms;  ///< a writer that died leaves its slot as it is
}  // namespace

Routine Engine::read_ahead(std::shared_ptr<Ahead> ahead) {
  const auto& shares = ahead->what.manifest.shares;
  ahead->words.resize(shares.size());
  const auto begun = now();
  const auto wanted = [&] {
    return ahead_ == ahead && !operation_ && !staged_ && !switching_ && now() - begun < kPatience;
  };
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const bool past = world_.scenario.bug == DriverBug::kAheadTrusted;
    for (;;) {
      co_await pause(world_.random.between(50us, 1ms));
      if (!wanted()) co_return;
      const auto slot = world_.memory.open(shares[i].object);
      if (slot == nullptr || slot->generation != shares[i].generation) co_return;
      std::vector<Word>& words = ahead->words[i];
      const std::size_t end = past ? slot->words.size() : slot->written;
      for (std::size_t taken = 0; words.size() < end && taken < 4; ++taken) {
        words.push_back(slot->words[words.size()]);
        maybe_corrupt(words.back());
      }
      if (words.size() == slot->words.size()) break;
    }
  }
}

const std::vector<Word>* Engine::read_already(const Operation& operation, std::size_t share) const {
  if (!ahead_ || ahead_->what.version != operation.what.version) return nullptr;
  if (share >= ahead_->words.size()) return nullptr;
  const plan::Share& then = ahead_->what.manifest.shares[share];
  const plan::Share& now = operation.what.manifest.shares[share];
  if (then.object != now.object || then.generation != now.generation) return nullptr;
  return &ahead_->words[share];
}

}  // namespace weightcast::simulation
