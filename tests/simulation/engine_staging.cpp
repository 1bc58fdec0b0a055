// How a simulated engine takes a version in: from slots, from a holder over the network, beside what
// it serves or in its place.
#include <algorithm>

#include "simulation/engine.hpp"
#include "simulation/world.hpp"

namespace weightcast::simulation {
namespace {
constexpr std::uint32_t kMostImages = 2;
/// A holder that is not reached this long is given up.
constexpr Duration kUnreached = 600ms;
constexpr Duration kAskAgain = 20ms;

std::size_t words_in(const plan::Share& share) {
  std::int64_t count = 0;
  for (const plan::ShareEntry& entry : share.entries) count += entry.info.elements();
  return static_cast<std::size_t>(count);
}
}  // namespace

void Engine::perform(protocol::ReceiverAction action) {
  if (auto* start = std::get_if<protocol::StartStage>(&action)) {
    if (operation_) {
      world_.truth.fail("one stage", name() + " is told to stage " + to_string(start->version) +
                                         " into the copy that " +
                                         to_string(operation_->what.version) + " still writes");
      return;
    }
    if (staged_ || switching_) {
      world_.truth.fail("one stage", name() + " is told to stage " + to_string(start->version) +
                                         " over another version");
      return;
    }
    world_.trace([&] { return name() + " stages " + to_string(start->version); });
    operation_ = std::make_shared<Operation>();
    operation_->what = std::move(*start);
    spawn(stage(operation_));
  } else if (const auto* cancel = std::get_if<protocol::CancelStage>(&action)) {
    if (operation_ && operation_->what.op == cancel->op) operation_->cancelled = true;
    if (switching_ && switching_->what.op == cancel->op) switching_->cancelled = true;
  } else if (const auto* drop = std::get_if<protocol::DropStaged>(&action)) {
    if (staged_op_ == drop->op) staged_.reset();
  } else if (auto* hint = std::get_if<protocol::ReadAhead>(&action)) {
    ++world_.truth.coverage.announced;
    if (network_ || activation_ == Activation::kView || activation_ == Activation::kSerial) return;
    ahead_ = std::make_shared<Ahead>(Ahead{std::move(*hint), {}});
    spawn(read_ahead(ahead_));
  } else if (const auto* change = std::get_if<protocol::Switch>(&action)) {
    if (staged_op_ != change->op || !staged_) {
      world_.truth.fail("3 verified", name() + " is told to serve what it has not staged");
      return;
    }
    if (in_place()) {
      switching_ = std::exchange(staged_, nullptr);
      spawn(switch_in_place(change->op, receiver_->run()));
    } else {
      spawn(switch_to(change->op, receiver_->run()));
    }
  }
}

Routine Engine::stage(std::shared_ptr<Operation> operation) {
  const bool third = world_.scenario.bug == DriverBug::kThirdImage;
  co_await until(
      [this, third, raw = operation.get()] {
        return images_ < kMostImages || third || raw->cancelled;
      },
      Clock::time_point::max());
  Status status;
  if (operation->cancelled) {
    status = Status(Code::kCancelled, "cancelled while it waited for room");
  } else {
    operation->image = std::make_shared<Image>(*this);
    if (images_ > kMostImages) {
      world_.truth.fail("5 bounded", name() + " holds " + std::to_string(images_) + " images");
    }
    operation->image->version = operation->what.version;
    operation->image->manifest = operation->what.manifest;
    if (!network_) co_await lock_shares(operation, status);
    if (status) world_.phase(Phase::kCopying, *this);
    if (status && activation_ == Activation::kView) {
      co_await pause(world_.random.between(50us, 2ms));
      if (world_.scenario.bug == DriverBug::kLockDroppedEarly) operation->image->let_go();
    } else if (status && activation_ != Activation::kSerial) {
      co_await fetch(operation, operation->image, status);
    }
  }
  end_stage(operation, status);
}

Routine Engine::lock_shares(std::shared_ptr<Operation> operation, Status& status) {
  for (const plan::Share& share : operation->what.manifest.shares) {
    co_await pause(world_.random.between(20us, 1ms));
    if (operation->cancelled) {
      status = Status(Code::kCancelled, "cancelled");
      co_return;
    }
    status = lock_share(*operation->image, share);
    if (!status) co_return;
  }
}

Status Engine::lock_share(Image& image, const plan::Share& share) {
  const auto slot = world_.memory.open(share.object);
  if (slot == nullptr) return Status(Code::kNotFound, share.object + " is gone");
  const bool locked = world_.memory.try_shared(*slot, pid());
  const bool same = slot->state == SlotObject::State::kSealed && slot->version == image.version &&
                    slot->generation == share.generation;
  if (locked) {
    image.locked.push_back(slot);
    image.mapped.push_back(slot);
  }
  if (locked && (same || world_.scenario.bug == DriverBug::kHeaderNotChecked)) {
    return Status::ok();
  }
  ++world_.truth.coverage.stale_slots;
  return Status(Code::kStale, share.object + " holds something else");
}

// ---- over the network -----------------------------------------------------------------------

Remote::Id Engine::hold_for(Pid reader, const plan::Share& share, const Version& version,
                            Status& why) {
  const auto same = [&](const plan::Share& its) {
    return its.object == share.object && its.generation == share.generation;
  };
  if (serving_ && serving_->version == version && !in_place()) {
    const auto& shares = serving_->manifest.shares;
    const auto found = std::find_if(shares.begin(), shares.end(), same);
    if (found != shares.end()) {
      const auto index = static_cast<std::size_t>(found - shares.begin());
      return world_.remote.hold_image(
          reader, pid(), {serving_, &serving_->words(index)});
    }
  }
  why = Status(Code::kStale, name() + " serves another version");
  return 0;
}

Remote::Id Engine::hold_remote(const Operation& operation, const plan::Share& share, Status& why) {
  const Version& version = operation.what.version;
  if (!operation.what.relay.empty()) {
    const auto relay = static_cast<Pid>(std::stoul(operation.what.relay));
    auto* const engine = dynamic_cast<Engine*>(world_.find(relay));
    if (engine == nullptr || !world_.reaches(pid(), relay)) return 0;
    return engine->hold_for(pid(), share, version, why);
  }
  const auto slot = world_.memory.open(share.object);
  if (slot == nullptr || !world_.reaches(pid(), slot->owner)) return 0;
  return world_.remote.hold_slot(pid(), share, version, why);
}

Routine Engine::read_share(std::shared_ptr<Operation> operation, std::size_t index,
                           std::vector<Word>& into, Status& status) {
  const plan::Share& share = operation->what.manifest.shares[index];
  ++world_.truth.coverage.network_reads;
  Clock::time_point reached = now();
  Remote::Id hold = 0;
  std::size_t word = 0;
  while (word < into.size()) {
    // Words of one bucket travel together; a bucket that did not come is asked for again.
    co_await pause(world_.random.between(50us, 1ms));
    if (operation->cancelled) {
      status = Status(Code::kCancelled, "cancelled");
      break;
    }
    const std::vector<Word>* words = hold == 0 ? nullptr : world_.remote.read(hold);
    const bool flows = words != nullptr && world_.reaches(pid(), world_.remote.holder(hold));
    if (flows) {
      reached = now();
      for (const std::size_t end = std::min(word + 4, into.size()); word < end; ++word) {
        into[word] = (*words)[word];
        maybe_corrupt(into[word]);
      }
      continue;
    }
    if (words == nullptr) hold = hold_remote(*operation, share, status);
    if (!status) break;
    if (hold != 0 && words == nullptr) continue;
    if (now() - reached > kUnreached) {
      ++world_.truth.coverage.network_failures;
      status = Status(Code::kUnavailable, share.object + " is not reached");
      break;
    }
    co_await pause(kAskAgain);
  }
  if (hold != 0) world_.remote.release(hold);
}

// ---- placing --------------------------------------------------------------------------------

void Engine::maybe_corrupt(Word& word) {
  if (!world_.faults_on() || !world_.random.chance(world_.scenario.corruption_permille)) return;
  word ^= 0x100u << world_.random.below(20);
  ++world_.truth.coverage.corruptions;
}

Routine Engine::fetch(std::shared_ptr<Operation> operation, std::shared_ptr<Image> image,
                      Status& status) {
  const auto& shares = operation->what.manifest.shares;
  const std::uint64_t corrupted_before = world_.truth.coverage.corruptions;
  image->copies.resize(shares.size());
  for (std::size_t i = 0; i < shares.size(); ++i) {
    auto& copy = image->copies[i];
    copy.resize(words_in(shares[i]));
    if (network_) {
      co_await read_share(operation, i, copy, status);
      if (!status) co_return;
      continue;
    }
    const auto& from = operation->image->mapped[i]->words;
    std::size_t first = 0;
    if (const std::vector<Word>* already = read_already(*operation, i)) {
      first = already->size();
      std::copy(already->begin(), already->end(), copy.begin());
      world_.truth.coverage.read_ahead += first;
    }
    for (std::size_t word = first; word < copy.size(); ++word) {
      if (word % 4 == 0) co_await pause(world_.random.between(50us, 1ms));
      copy[word] = from[word];
      maybe_corrupt(copy[word]);
      if (operation->cancelled && word % 4 == 3) {
        status = Status(Code::kCancelled, "cancelled");
        co_return;
      }
    }
  }
  co_await pause(world_.random.between(50us, 1ms));
  image->manifest = operation->what.manifest;
  const bool trusted = world_.scenario.bug == DriverBug::kSkippedVerification ||
                       (world_.scenario.bug == DriverBug::kAheadTrusted && ahead_);
  if (!trusted) status = verify(*image);
  if (!status) {
    world_.truth.coverage.corruptions_found +=
        world_.truth.coverage.corruptions - corrupted_before;
  }
  ahead_.reset();  // good or not, it is not used twice
  operation->image->let_go();
  operation->image->mapped.clear();
}

Status Engine::verify(const Image& image) const {
  for (std::size_t i = 0; i < image.copies.size(); ++i) {
    std::size_t first = 0;
    for (const plan::ShareEntry& entry : image.manifest.shares[i].entries) {
      const auto count = static_cast<std::size_t>(entry.info.elements());
      if (digest_of(image.copies[i].data() + first, count) != entry.digest) {
        return Status(Code::kMismatch, entry.info.name + " is not what was captured");
      }
      first += count;
    }
  }
  return Status::ok();
}

void Engine::end_stage(const std::shared_ptr<Operation>& operation, const Status& status) {
  const std::uint64_t op = operation->what.op;
  if (operation_ == operation) operation_.reset();
  if (status) {
    staged_op_ = op;
    // The routine that staged it keeps what it was given until another begins.
    staged_ = std::make_shared<Operation>(std::move(*operation));
    if (activation_ != Activation::kSerial) check(*staged_->image);
    world_.truth.staged(name(), receiver_->incarnation(), staged_->what.version);
    world_.trace([&] { return name() + " has staged " + to_string(staged_->what.version); });
    if (!staged_->what.relay.empty()) ++world_.truth.coverage.relayed;
  } else {
    operation->image.reset();
    world_.trace([&] { return name() + " failed to stage: " + status.to_string(); });
  }
  dirty_ = true;
  receiver_->stage_done(now(), op, status);
  if (!status) return;
  world_.phase(Phase::kStaged, *this);
  if (world_.scenario.bug == DriverBug::kSwitchUnasked && !in_place() &&
      world_.random.chance(20)) {
    serve(std::exchange(staged_, nullptr)->image, receiver_->run());
  }
}

// ---- the switch -----------------------------------------------------------------------------

Routine Engine::switch_to(std::uint64_t op, Run newest_run) {
  world_.phase(Phase::kCommitted, *this);
  co_await pause(world_.random.between(20us, 2ms));  // to the next safe point
  if (staged_op_ != op || !staged_) {
    world_.truth.fail("3 verified", name() + " has lost what it is to serve");
    co_return;
  }
  serve(std::exchange(staged_, nullptr)->image, newest_run);
  receiver_->switched(now(), op);
  dirty_ = true;
}

bool Engine::leased() const {
  return std::any_of(leases_.begin(), leases_.end(),
                     [&](const auto& lease) { return lease->image == serving_; });
}

Routine Engine::drain(std::shared_ptr<Operation> operation) {
  if (!leased() || world_.scenario.bug == DriverBug::kNoDrain) co_return;
  ++world_.truth.coverage.drained;
  const bool gives_way = activation_ == Activation::kSerial;
  co_await until([this, gives_way, raw = operation.get()] {
    return !leased() || (gives_way && raw->cancelled);
  }, Clock::time_point::max());
}

Routine Engine::switch_in_place(std::uint64_t op, Run newest_run) {
  const std::shared_ptr<Operation> operation = switching_;
  const bool serial = activation_ == Activation::kSerial;
  world_.phase(Phase::kCommitted, *this);
  co_await pause(world_.random.between(20us, 2ms));
  blocked_ = true;
  co_await drain(operation);
  Status status;
  std::shared_ptr<Image> place = serving_;
  if (operation->cancelled && serial) {
    status = Status(Code::kCancelled, "cancelled before the first byte");
  } else if (!serial && !place) {
    place = operation->image;  // the first version needs no copy
  } else if (!serial) {
    for (std::size_t i = 0; i < place->copies.size(); ++i) {
      for (std::size_t word = 0; word < place->copies[i].size(); ++word) {
        if (word % 4 == 0) co_await pause(world_.random.between(20us, 400us));
        place->copies[i][word] = operation->image->copies[i][word];
      }
    }
  } else {
    if (!place) place = std::make_shared<Image>(*this);
    receiver_->set_dirty(now(), true);
    broken_ = true;
    co_await fetch(operation, place, status);
    if (!status) {
      ++world_.truth.coverage.dirty_failures;
      world_.truth.in_place(name(), first_incarnation_, true);
    }
  }
  switching_.reset();
  operation->image.reset();
  blocked_ = false;
  dirty_ = true;
  if (!status) {
    world_.trace([&] { return name() + " failed in place: " + status.to_string(); });
    receiver_->switch_failed(now(), op, status);
    co_return;
  }
  if (serial) {
    broken_ = false;
    world_.truth.in_place(name(), first_incarnation_, false);
  }
  const Version version = operation->what.version;
  world_.truth.switched(name(), serves(), version, newest_run);
  place->version = version;
  place->manifest = operation->what.manifest;
  serving_ = place;
  check(*serving_);
  world_.trace([&] { return name() + " serves " + to_string(version) + " in place"; });
  if (serial) receiver_->set_dirty(now(), false);
  receiver_->switched(now(), op);
}

void Engine::serve(std::shared_ptr<Image> image, const Run& newest_run) {
  world_.truth.switched(name(), serves(), image->version, newest_run);
  serving_ = std::move(image);
  check(*serving_);
  world_.trace([&] { return name() + " serves " + to_string(serving_->version); });
}

}  // namespace weightcast::simulation
