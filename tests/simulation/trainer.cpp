#include "simulation/trainer.hpp"

#include <algorithm>

#include "simulation/world.hpp"

namespace weightcast::simulation {
namespace {

constexpr protocol::Peer kLocalPeer = 0;
constexpr Duration kSeekPeriod = 50ms;
/// After a cancel, the word that a worker has in its hands is still written.
constexpr Duration kCaptureTail = 100us;
constexpr std::size_t kOutboxBound = 600;

plan::ShareEntry entry_of(const std::string& name, const Word* words, std::size_t count,
                          std::uint64_t offset, bool buffer) {
  plan::ShareEntry entry;
  entry.info.name = name;
  entry.info.dtype = DType::kI64;
  entry.info.shape = {static_cast<std::int64_t>(count)};
  entry.info.buffer = buffer;
  entry.offset = offset;
  entry.digest = digest_of(words, count);
  return entry;
}

}  // namespace

Trainer::Trainer(World& world, Pid pid, std::uint32_t rank, std::string launch,
                 std::uint64_t launch_number)
    : Process(world, pid, "rank-" + std::to_string(rank)),
      rank_(rank),
      launch_(std::move(launch)),
      launch_number_(launch_number) {
  const Scenario& scenario = world.scenario;
  world.memory.sweep([&](Pid owner) { return world.find(owner) != nullptr; });
  for (std::uint32_t i = 0; i < scenario.slots; ++i) {
    slab_.push_back(world.memory.create(
        pid, "slot-" + std::to_string(pid) + "-" + std::to_string(i),
        kBufferWords + scenario.words));
  }
  live_.resize(kBufferWords + scenario.words);
  const std::uint64_t stamp = world.next_stamp();
  for (std::size_t i = 0; i < live_.size(); ++i) live_[i] = stamp << 8 | i;

  book_.emplace(scenario.slots, static_cast<protocol::SlotLocks&>(*this));
  protocol::SourceConfig config;
  config.rank = rank;
  config.world_size = scenario.ranks;
  config.launch = launch_;
  config.policy = "actor";
  const auto us = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(now().time_since_epoch()).count());
  config.incarnation = us;
  config.max_coalesced = scenario.max_coalesced;
  config.heartbeat = scenario.heartbeat;
  config.member_timeout = scenario.member_timeout;
  source_.emplace(config, *book_, now());
  next_seek_ = now();
  if (rank == 0) {
    protocol::CoordinatorConfig its;
    its.run = Run{us, static_cast<std::uint32_t>(world.random.below(1000))};
    its.world_size = scenario.ranks;
    its.launch = launch_;
    its.policy = "actor";
    its.heartbeat = scenario.heartbeat;
    its.member_timeout = scenario.member_timeout;
    its.attempt_timeout = scenario.attempt_timeout;
    its.compare_every = scenario.compare_every;
    its.min_receivers = scenario.min_receivers;
    its.p2p = scenario.p2p;
    its.slots = scenario.slots;
    its.max_dirty = scenario.max_dirty;
    its.fan_out = scenario.fan_out;
    coordinator_.emplace(its, now());
    world.announce(pid);
  }
  spawn(train());
}

Trainer::~Trainer() {
  end_routines();
  if (!coordinator_) return;
  world_.count(coordinator_->counters());
  world_.truth.coverage.superseded += coordinator_->superseded() ? 1 : 0;
}

bool Trainer::try_lock(std::uint32_t slot) {
  return world_.memory.try_exclusive(*slab_[slot], pid());
}
void Trainer::unlock(std::uint32_t slot) { world_.memory.unlock_exclusive(*slab_[slot], pid()); }

// ---- the training loop ----------------------------------------------------------------------

Routine Trainer::train() {
  const Scenario& scenario = world_.scenario;
  co_await pause(world_.random.between(0ms, 10ms));
  for (;;) {
    // Forward writes the buffers (BatchNorm's statistics) with no fence before it.
    co_await pause(world_.random.between(200us, scenario.step / 2));
    const std::uint64_t forward = world_.next_stamp();
    for (std::uint32_t i = 0; i < kBufferWords; ++i) {
      live_[i] = forward << 8 | i;
      co_await pause(50us);
    }
    co_await pause(world_.random.between(100us, scenario.step / 2));
    if (scenario.lockstep) {
      // The gradients are averaged: nobody steps before all have come here.
      while (!world_.all_ranks_took(steps_)) co_await pause(2ms);
    } else {
      while (world_.far_ahead(*this)) co_await pause(2ms);
    }
    co_await fence(now() + scenario.stall);
    co_await take_step();
    if (steps_ % scenario.publish_every != 0) continue;
    // All ranks see the same failure: a loss that is not finite, say.
    const bool failed =
        Random(scenario.seed * 7919 + launch_number_ * 104729 + steps_)
            .chance(scenario.lockstep ? scenario.failed_step_permille : 0) ||
        (!scenario.lockstep && world_.random.chance(scenario.failed_step_permille));
    if (failed) {
      source_->skip_point(now(), "step failed");
      dirty_ = true;
      continue;
    }
    co_await publish(now() + scenario.stall, false);
    // All ranks flush at the same point.
    if (scenario.flush_every != 0 && (source_->next_point() - 1) % scenario.flush_every == 0) {
      co_await flush(now() + 600ms);
    }
  }
}

Routine Trainer::take_step() {
  const std::uint64_t stamp = world_.next_stamp();
  for (std::size_t i = kBufferWords; i < live_.size(); ++i) {
    live_[i] = stamp << 8 | i;
    if (i % 3 == 0) co_await pause(world_.random.between(20us, 200us));
  }
  ++steps_;
}

void Trainer::check_waited(Clock::time_point since, std::uint64_t stops_before,
                           const char* where) {
  if (stops() != stops_before) return;  // SIGSTOP's share of the wait is not ours
  if (now() - since <= world_.scenario.stall) return;
  world_.truth.fail("4 stall", name() + " waited " + std::to_string((now() - since).count()) +
                                   " ns in " + where);
}

Routine Trainer::fence(Clock::time_point deadline) {
  const DriverBug bug = world_.scenario.bug;
  if (!capture_ || bug == DriverBug::kNoFence) co_return;
  const auto since = now();
  const std::uint64_t stops_before = stops();
  const auto capture = capture_;
  const bool useless = source_->wants_cancel();
  if (!useless) {
    if (bug == DriverBug::kEndlessFence) deadline = Clock::time_point::max();
    co_await until([this] { return capture_ == nullptr; }, deadline);
  }
  if (capture_ == capture) {
    capture->cancelled = true;
    capture->stalled = !useless;
    if (capture->stalled) ++world_.truth.coverage.stalls;
  }
  check_waited(since, stops_before, "fence()");
}

Routine Trainer::publish(Clock::time_point wait_until, bool insist) {
  using Kind = protocol::PointDecision::Kind;
  const auto since = now();
  const std::uint64_t stops_before = stops();
  protocol::PointDecision decision = source_->at_point(now(), true, insist);
  dirty_ = true;
  if (decision.kind == Kind::kWait) {
    co_await until([this] { return source_->granted_now(); }, wait_until);
    decision = source_->at_point(now(), false);
    dirty_ = true;
  }
  if (decision.kind == Kind::kCapture) begin_capture(decision);
  if (!insist) check_waited(since, stops_before, "publish()");
}

void Trainer::begin_capture(const protocol::PointDecision& decision) {
  if (capture_) {
    world_.truth.fail("slot", name() + " is told to capture while a capture runs");
    return;
  }
  auto capture = std::make_shared<Capture>();
  capture->decision = decision;
  capture->slot = slab_[decision.slot];
  capture->at = now();
  capture->step = steps_;
  capture->slow = world_.faults_on() && world_.random.chance(world_.scenario.slow_copy_permille);
  world_.memory.begin_write(*capture->slot, pid());
  capture->generation = capture->slot->generation;
  Truth::Snapshot snapshot;
  snapshot.rank = rank_;
  snapshot.version = Version{decision.run, decision.point};
  snapshot.launch = launch_number_;
  if (world_.scenario.lockstep) snapshot.step = steps_;
  snapshot.words = live_;
  world_.truth.point_captured(capture->slot->name, capture->generation, std::move(snapshot));
  if (world_.scenario.bug != DriverBug::kLateBuffers) {
    for (std::size_t i = 0; i < kBufferWords; ++i) {
      world_.memory.write(*capture->slot, pid(), i, live_[i]);
    }
  }
  world_.trace([&] {
    return name() + " captures point " + std::to_string(decision.point) + " into " +
           capture->slot->name;
  });
  capture_ = capture;
  plan::Share share = share_of(*capture, live_.data());
  for (plan::ShareEntry& entry : share.entries) entry.digest = {};
  source_->capture_begun(std::move(share));
  dirty_ = true;
  world_.phase(Phase::kCopying, *this);
  if (world_.scenario.bug == DriverBug::kSealedTooEarly) {
    send_sealed(*capture, live_.data());
  }
  spawn(copy(capture));
}

Routine Trainer::copy(std::shared_ptr<Capture> capture) {
  const Scenario& scenario = world_.scenario;
  const std::size_t first = scenario.bug == DriverBug::kLateBuffers ? 0 : kBufferWords;
  for (std::size_t i = first; i < live_.size(); ++i) {
    co_await pause(world_.random.between(scenario.word_copy / 4, scenario.word_copy) *
                   (capture->slow ? 10 : 1));
    world_.memory.write(*capture->slot, pid(), i, live_[i]);
    if (capture->cancelled) break;
  }
  co_await pause(kCaptureTail);
  end_capture(*capture);
}

void Trainer::end_capture(Capture& capture) {
  if (capture_.get() != &capture) return;
  dirty_ = true;
  const auto keep = std::exchange(capture_, nullptr);
  if (capture.cancelled) {
    source_->capture_failed(now(), capture.stalled ? "stall" : "cancelled");
    return;
  }
  if (world_.scenario.bug != DriverBug::kSealedTooEarly) send_sealed(capture, capture.slot->words.data());
}

plan::Share Trainer::share_of(const Capture& capture, const Word* words) const {
  plan::Share share;
  share.rank = rank_;
  share.object = capture.slot->name;
  share.generation = capture.generation;
  const std::uint64_t at = plan::kAlignment;
  share.payload_bytes = at + 8 * (live_.size() - kBufferWords);
  const std::string prefix = "r" + std::to_string(rank_);
  share.entries = {
      entry_of(prefix + ".stats", words, kBufferWords, 0, true),
      entry_of(prefix + ".weight", words + kBufferWords, live_.size() - kBufferWords, at, false)};
  return share;
}

void Trainer::send_sealed(const Capture& capture, const Word* words) {
  SlotObject& slot = *capture.slot;
  world_.memory.seal(slot, pid(), Version{capture.decision.run, capture.decision.point});
  protocol::Sealed sealed;
  sealed.layout_fingerprint = 42;
  sealed.share = share_of(capture, words);
  sealed.has_policy_digest = capture.decision.compare;
  if (capture.decision.compare) sealed.policy_digest = {capture.step, launch_number_};
  sealed.captured_at_ns = capture.at.time_since_epoch().count();
  source_->capture_sealed(now(), std::move(sealed));
  dirty_ = true;
}

Routine Trainer::flush(Clock::time_point deadline) {
  for (;;) {
    if (!co_await until([this] { return capture_ == nullptr; }, deadline)) break;
    const bool asked = source_->last_captured() != 0 &&
                       source_->last_captured() + 1 == source_->next_point() &&
                       source_->request_flush(now());
    dirty_ = true;
    if (!asked) {
      if (now() >= deadline) break;
      co_await publish(deadline, true);
      continue;
    }
    const bool answered =
        co_await until([this] { return source_->verdict().has_value(); }, deadline);
    protocol::Verdict verdict;
    if (answered) verdict = *source_->verdict();
    source_->end_flush();
    if (!answered) break;
    if (verdict.number == 0) {
      source_->forget_captured();
      continue;
    }
    break;
  }
}

// ---- the control loop -----------------------------------------------------------------------

void Trainer::on_message(protocol::Peer peer, const protocol::Message& message) {
  dirty_ = true;
  if (coordinator_) {
    hand_to_coordinator(peer, message);
  } else {
    source_->receive(now(), message);
  }
}

void Trainer::hand_to_coordinator(protocol::Peer peer, const protocol::Message& message) {
  coordinator_->receive(now(), peer, message);
  take_from_coordinator();
}

void Trainer::take_from_coordinator() {
  std::vector<protocol::Outgoing> said = coordinator_->take_outbox();
  for (const protocol::Note& note : coordinator_->take_notes()) {
    world_.trace([&] { return "coordinator " + std::to_string(pid()) + ": " + note.text; });
  }
  if (said.size() > kOutboxBound) world_.truth.fail("5 bounded", "an outbox of a coordinator");
  world_.truth.coordinator_said(coordinator_->run(), coordinator_->committed(),
                                coordinator_->sources_joined() == world_.scenario.ranks, said);
  if (coordinator_->published() != published_before_) {
    published_before_ = coordinator_->published();
    world_.trace([&] { return "published " + std::to_string(published_before_); });
    world_.phase(Phase::kBeforePrepare, *this);
  }
  if (coordinator_->committed() != committed_before_) {
    committed_before_ = coordinator_->committed();
    world_.trace([&] { return "committed " + std::to_string(committed_before_); });
    world_.phase(Phase::kCommitted, *this);
  }
  for (protocol::Outgoing& out : said) {
    if (out.peer == kLocalPeer) {
      to_local_.push_back(std::move(out));
    } else {
      world_.send_to_member(out.peer, std::move(out.message));
    }
  }
}

void Trainer::leave() {
  source_->leave(now());
  exchange();
  if (!coordinator_) return;
  coordinator_->leave();
  take_from_coordinator();
}

void Trainer::turn() {
  const bool due = now() >= next_wakeup();
  if (due || dirty_) {
    if (coordinator_) {
      coordinator_->tick(now());
      world_.truth.coordinator_shown(coordinator_->picture(now()));
      take_from_coordinator();
    }
    source_->tick(now());
    exchange();
    if (!coordinator_) seek_coordinator();
    dirty_ = false;
    if (next_wakeup() > now() + world_.scenario.heartbeat) {
      world_.truth.fail("6 deadlines", name() + " does not wake up within a heartbeat");
    }
  }
}

void Trainer::exchange() {
  for (;;) {
    std::vector<protocol::Message> from_source = source_->take_outbox();
    if (from_source.size() > kOutboxBound) world_.truth.fail("5 bounded", "a source's outbox");
    if (!coordinator_) {
      for (protocol::Message& message : from_source) {
        if (peer_ != 0) world_.send_to_coordinator(peer_, std::move(message));
      }
      return;
    }
    for (const protocol::Message& message : from_source) hand_to_coordinator(kLocalPeer, message);
    if (from_source.empty() && to_local_.empty()) return;
    for (const protocol::Outgoing& out : std::exchange(to_local_, {})) {
      source_->receive(now(), out.message);
    }
  }
}

void Trainer::seek_coordinator() {
  if (source_->joined() || now() < next_seek_) return;
  next_seek_ = now() + kSeekPeriod;
  if (source_->take_reconnect()) connected_to_ = 0;
  const Pid announced = world_.announced();
  if (announced == 0 || announced == connected_to_) return;
  connected_to_ = announced;
  peer_ = world_.connect(pid(), announced);
}

Clock::time_point Trainer::next_wakeup() const {
  const Clock::time_point source = source_->next_wakeup();
  return coordinator_ ? std::min(source, coordinator_->next_wakeup()) : source;
}

}  // namespace weightcast::simulation
