#include "simulation/engine.hpp"

#include <algorithm>

#include "simulation/world.hpp"

namespace weightcast::simulation {
namespace {
constexpr Duration kReceiverSeekPeriod = 50ms;
/// A continued process takes in a full inbox, and answers each message at most twice.
constexpr std::size_t kReceiverOutboxBound = 600;
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

Engine::Engine(World& world, Pid pid, std::string name, Activation activation, bool network)
    : Process(world, pid, std::move(name)), activation_(activation), network_(network) {
  protocol::ReceiverConfig config;
  config.name = Process::name();
  config.policy = "actor";
  config.incarnation = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(now().time_since_epoch()).count());
  config.heartbeat = world.scenario.heartbeat;
  config.member_timeout = world.scenario.member_timeout;
  config.in_place = activation == Activation::kSerial;
  config.over_network = network;
  if (!in_place()) config.relay_endpoint = std::to_string(pid);
  // The process before it may have been of another kind.
  const std::uint64_t never = ~std::uint64_t{0};
  world.truth.in_place(Process::name(), config.in_place ? config.incarnation : never, false);
  first_incarnation_ = config.incarnation;
  receiver_.emplace(config, now());
  next_seek_ = now();
  for (int i = 0; i < 2; ++i) spawn(work());
}

Engine::~Engine() { end_routines(); }

std::string Engine::kind() const {
  const char* kinds[] = {"view", "flip", "staged", "serial"};
  return std::string(kinds[static_cast<int>(activation_)]) + (network_ ? " over tcp" : "") +
         (broken_ ? " broken" : "");
}

// ---- leases ---------------------------------------------------------------------------------

Routine Engine::work() {
  const Scenario& scenario = world_.scenario;
  for (;;) {
    co_await pause(world_.random.between(1ms, scenario.lease));
    if (!serving_) continue;
    if (blocked_ || broken_) {
      ++world_.truth.coverage.refused_dirty;
      if (scenario.bug != DriverBug::kLeasedWhileDirty) continue;
    }
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
                             image.words(i));
  }
}

void Engine::note_lagging() {
  bool lagging = false;
  for (const auto& lease : leases_) {
    // In place even a lease on what is served keeps the next version out.
    if (lease->image == serving_ && !(in_place() && switching_)) continue;
    lagging = lagging || now() - lease->since > world_.scenario.lease_deadline;
  }
  receiver_->set_lagging(now(), lagging);
}

// ---- the I/O loop ---------------------------------------------------------------------------

void Engine::on_message(protocol::Peer, const protocol::Message& message) {
  dirty_ = true;
  receiver_->receive(now(), message);
}

void Engine::leave() {
  receiver_->leave(now(), serves());
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
    if (messages.size() > kReceiverOutboxBound) world_.truth.fail("5 bounded", "a receiver's outbox");
    if (actions.empty() && messages.empty()) return;
    for (protocol::ReceiverAction& action : actions) perform(std::move(action));
    for (protocol::Message& message : messages) {
      if (peer_ != 0) world_.send_to_coordinator(peer_, std::move(message));
    }
  }
}

void Engine::seek_coordinator() {
  if (receiver_->attached() || now() < next_seek_) return;
  next_seek_ = now() + kReceiverSeekPeriod;
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
