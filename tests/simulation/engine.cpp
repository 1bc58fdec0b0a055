#include "simulation/engine.hpp"

#include <algorithm>

#include "simulation/world.hpp"

namespace weightcast::simulation {
namespace {
constexpr std::uint32_t kMostImages = 2;
constexpr Duration kSeekPeriod = 50ms;
/// A continued process takes in a full inbox, and answers each message at most twice.
constexpr std::size_t kOutboxBound = 600;
constexpr std::uint64_t kStaleAnnouncementPermille = 300;
}  // namespace

Engine::Image::~Image() {
  let_go();
  --engine.images_;
}

void Engine::Image::let_go() {
  for (const auto& slot : locked) engine.world_.memory.unlock_shared(*slot, engine.pid());
  locked.clear();
}

Engine::Engine(World& world, Pid pid, std::string name, bool flip)
    : Process(world, pid, std::move(name)), flip_(flip) {
  protocol::ReceiverConfig config;
  config.name = Process::name();
  config.policy = "actor";
  config.incarnation = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(now().time_since_epoch()).count());
  config.heartbeat = world.scenario.heartbeat;
  config.member_timeout = world.scenario.member_timeout;
  receiver_.emplace(config, now());
  next_seek_ = now();
  for (int i = 0; i < 2; ++i) spawn(work());
}

Engine::~Engine() { end_routines(); }

// ---- leases ---------------------------------------------------------------------------------

Routine Engine::work() {
  const Scenario& scenario = world_.scenario;
  for (;;) {
    co_await pause(world_.random.between(1ms, scenario.lease));
    if (!serving_) continue;
    auto lease = std::make_shared<Lease>(Lease{serving_, now()});
    leases_.push_back(lease);
    ++world_.truth.coverage.leases;
    check(*lease->image);
    const bool lengthy =
        world_.faults_on() && world_.random.chance(scenario.long_lease_permille);
    const Duration length = lengthy ? scenario.lease_deadline * 3 : scenario.lease;
    for (int part = 0; part < 2; ++part) {
      co_await pause(world_.random.between(1ms, length / 2));
      check(*lease->image);
    }
    std::erase(leases_, lease);
    lease.reset();
    dirty_ = true;
  }
}

void Engine::check(const Image& image) {
  Coverage& coverage = world_.truth.coverage;
  ++coverage.lease_checks;
  if (image.version.run == receiver_->published().run &&
      receiver_->published().number > image.version.number + 1) {
    ++coverage.served_over_steps;
  }
  for (std::size_t i = 0; i < image.manifest.shares.size(); ++i) {
    world_.truth.check_share(name(), image.version, image.manifest.shares[i],
                             flip_ ? image.copies[i] : image.mapped[i]->words);
  }
}

void Engine::note_lagging() {
  bool lagging = false;
  for (const auto& lease : leases_) {
    if (lease->image == serving_) continue;
    lagging = lagging || now() - lease->since > world_.scenario.lease_deadline;
  }
  receiver_->set_lagging(now(), lagging);
}

// ---- taking a version in --------------------------------------------------------------------

void Engine::perform(protocol::ReceiverAction action) {
  if (auto* start = std::get_if<protocol::StartStage>(&action)) {
    if (operation_) {
      world_.truth.fail("one stage", name() + " is told to stage " + to_string(start->version) +
                                         " into the copy that " +
                                         to_string(operation_->what.version) + " still writes");
      return;
    }
    if (staged_) {
      world_.truth.fail("one stage", name() + " is told to stage " + to_string(start->version) +
                                         " over " + to_string(staged_->version));
      return;
    }
    world_.trace([&] { return name() + " stages " + to_string(start->version); });
    operation_ = std::make_shared<Operation>();
    operation_->what = std::move(*start);
    spawn(stage(operation_));
  } else if (const auto* cancel = std::get_if<protocol::CancelStage>(&action)) {
    if (operation_ && operation_->what.op == cancel->op) operation_->cancelled = true;
  } else if (const auto* drop = std::get_if<protocol::DropStaged>(&action)) {
    if (staged_op_ == drop->op) staged_.reset();
  } else if (const auto* change = std::get_if<protocol::Switch>(&action)) {
    spawn(switch_to(change->op, receiver_->run()));
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
    co_await place(operation, status);
  }
  end_stage(operation, status);
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

Routine Engine::place(std::shared_ptr<Operation> operation, Status& status) {
  Image& image = *operation->image;
  const auto& shares = image.manifest.shares;
  for (const plan::Share& share : shares) {
    co_await pause(world_.random.between(20us, 1ms));
    if (operation->cancelled) {
      status = Status(Code::kCancelled, "cancelled");
      co_return;
    }
    status = lock_share(image, share);
    if (!status) co_return;
  }
  world_.phase(Phase::kCopying, *this);
  if (!flip_) {
    co_await pause(world_.random.between(50us, 2ms));
    if (world_.scenario.bug == DriverBug::kLockDroppedEarly) image.let_go();
    co_return;
  }
  std::uint64_t corrupted = 0;
  image.copies.resize(shares.size());
  for (std::size_t i = 0; i < shares.size(); ++i) {
    image.copies[i].assign(image.mapped[i]->words.size(), 0);
    for (std::size_t word = 0; word < image.copies[i].size(); ++word) {
      if (word % 4 == 0) co_await pause(world_.random.between(50us, 1ms));
      image.copies[i][word] = image.mapped[i]->words[word];
      if (world_.faults_on() && world_.random.chance(world_.scenario.corruption_permille)) {
        image.copies[i][word] ^= 0x100u << world_.random.below(20);
        ++corrupted;
        ++world_.truth.coverage.corruptions;
      }
      if (operation->cancelled && word % 4 == 3) {
        status = Status(Code::kCancelled, "cancelled");
        co_return;
      }
    }
  }
  co_await pause(world_.random.between(50us, 1ms));
  if (world_.scenario.bug != DriverBug::kSkippedVerification) status = verify(image);
  if (!status) world_.truth.coverage.corruptions_found += corrupted;
  image.let_go();
  image.mapped.clear();
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
    staged_ = std::move(operation->image);
    check(*staged_);
    world_.truth.staged(name(), receiver_->incarnation(), staged_->version);
    world_.trace([&] { return name() + " has staged " + to_string(staged_->version); });
  } else {
    operation->image.reset();
    world_.trace([&] { return name() + " failed to stage: " + status.to_string(); });
  }
  dirty_ = true;
  receiver_->stage_done(now(), op, status);
  if (!status) return;
  world_.phase(Phase::kStaged, *this);
  if (world_.scenario.bug == DriverBug::kSwitchUnasked && world_.random.chance(20)) {
    serve(std::exchange(staged_, nullptr), receiver_->run());
  }
}

Routine Engine::switch_to(std::uint64_t op, Run newest_run) {
  world_.phase(Phase::kCommitted, *this);
  co_await pause(world_.random.between(20us, 2ms));  // to the next safe point
  if (staged_op_ != op || !staged_) {
    world_.truth.fail("3 verified", name() + " is told to serve what it has not staged");
    co_return;
  }
  serve(std::exchange(staged_, nullptr), newest_run);
  receiver_->switched(now(), op);
  dirty_ = true;
}

void Engine::serve(std::shared_ptr<Image> image, const Run& newest_run) {
  world_.truth.switched(name(), serves(), image->version, newest_run);
  serving_ = std::move(image);
  check(*serving_);
  world_.trace([&] { return name() + " serves " + to_string(serving_->version); });
}

// ---- the I/O loop ---------------------------------------------------------------------------

void Engine::on_message(protocol::Peer, const protocol::Message& message) {
  dirty_ = true;
  receiver_->receive(now(), message);
}

void Engine::leave() {
  receiver_->leave(now());
  exchange();
}

void Engine::turn() {
  note_lagging();
  if (!dirty_ && now() < receiver_->next_wakeup()) return;
  dirty_ = false;
  receiver_->tick(now());
  exchange();
  seek_coordinator();
  if (receiver_->run() < newest_run_) {
    world_.truth.fail("2 never back", name() + " obeys run " + to_string(receiver_->run()) +
                                          " after run " + to_string(newest_run_));
  }
  newest_run_ = receiver_->run();
  if (receiver_->serving() != serves() &&
      world_.scenario.bug != DriverBug::kSwitchUnasked) {
    world_.truth.fail("3 verified", name() + " says that it serves " +
                                        to_string(receiver_->serving()) + ", but serves " +
                                        to_string(serves()));
  }
  if (next_wakeup() > now() + world_.scenario.heartbeat) {
    world_.truth.fail("6 deadlines", name() + " does not wake up within a heartbeat");
  }
}

void Engine::exchange() {
  for (;;) {
    auto actions = receiver_->take_actions();
    auto messages = receiver_->take_outbox();
    if (messages.size() > kOutboxBound) world_.truth.fail("5 bounded", "a receiver's outbox");
    if (actions.empty() && messages.empty()) return;
    for (protocol::ReceiverAction& action : actions) perform(std::move(action));
    for (protocol::Message& message : messages) {
      if (peer_ != 0) world_.send_to_coordinator(peer_, std::move(message));
    }
  }
}

void Engine::seek_coordinator() {
  if (receiver_->attached() || now() < next_seek_) return;
  next_seek_ = now() + kSeekPeriod;
  if (receiver_->take_reconnect()) connected_to_ = 0;
  Pid announced = world_.announced();
  // It may have read the announcement just before a newer run replaced it.
  const Pid former = world_.former_coordinator();
  if (world_.faults_on() && former != 0 && connected_to_ == 0 &&
      world_.random.chance(kStaleAnnouncementPermille)) {
    announced = former;
  }
  if (announced == 0 || announced == connected_to_) return;
  connected_to_ = announced;
  peer_ = world_.connect(pid(), announced);
}

}  // namespace weightcast::simulation
