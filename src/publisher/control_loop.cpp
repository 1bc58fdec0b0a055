#include "publisher/control_loop.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/failpoint.hpp"
#include "base/host.hpp"
#include "base/log.hpp"
#include "base/trace.hpp"
#include "base/signal_mask.hpp"
#include "protocol/wire.hpp"
#include "staging/sweep.hpp"
#include "stream/job_keys.hpp"
#include "stream/role_check.hpp"
#include "stream/wait.hpp"

namespace weightcast::publisher {
namespace {

constexpr protocol::Peer kLocalPeer = 0;  ///< rank 0's own source, which needs no socket
constexpr auto kSweepPeriod = std::chrono::seconds(2);
constexpr auto kFarewell = std::chrono::milliseconds(100);  ///< for the last messages to go out
constexpr int kMaxMessagesATurn = 256;  ///< so that timers are looked at under a flood

protocol::SourceConfig source_config(const PublisherOptions& options, std::uint64_t incarnation) {
  protocol::SourceConfig config;
  config.rank = options.rank;
  config.world_size = options.world_size;
  config.launch = options.launch;
  config.policy = options.policy;
  config.incarnation = incarnation;
  config.clock = base::host_identity();
  config.host = base::host_name();
  config.pid = static_cast<std::uint64_t>(::getpid());
  config.max_coalesced = options.max_coalesced;
  config.heartbeat = options.heartbeat;
  config.member_timeout = options.member_timeout;
  return config;
}

Run newest_run_in(const protocol::Message& message) {
  const auto* hello = std::get_if<protocol::Hello>(&message.body);
  return hello == nullptr ? message.run : std::max(message.run, hello->highest_run);
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

ControlLoop::ControlLoop(const PublisherOptions& options, std::string place,
                         std::uint64_t incarnation, stream::Keys keys,
                         protocol::SlotLocks& locks, Reporter report)
    : options_(options),
      place_(std::move(place)),
      keys_(std::move(keys)),
      book_(options.slots, locks),
      source_(source_config(options, incarnation), book_, Clock::now()),
      link_({place_, options.coordinator, keys_}),
      report_(std::move(report)) {}

Result<std::unique_ptr<ControlLoop>> ControlLoop::start(const PublisherOptions& options,
                                                        const std::string& place,
                                                        std::uint64_t incarnation,
                                                        protocol::SlotLocks& locks,
                                                        Reporter report) {
  auto keys = stream::control_keys({place, options.keys, options.listen, options.coordinator},
                                   keys::Role::kTrainer);
  if (!keys) return keys.status();
  std::unique_ptr<ControlLoop> loop(
      new ControlLoop(options, place, incarnation, std::move(*keys), locks, std::move(report)));
  if (options.rank == 0) {
    if (Status status = loop->become_coordinator(); !status) return status;
    loop->source_.tick(Clock::now());
    loop->exchange();  // its own source has joined when this returns
  }
  const base::ScopedSignalMask mask;
  try {
    loop->thread_ = std::thread([raw = loop.get()] { raw->run(); });
  } catch (const std::exception& error) {
    return Status(Code::kExhausted, std::string("cannot start the control thread: ") + error.what());
  }
  return loop;
}

Status ControlLoop::become_coordinator() {
  auto rendezvous = stream::Rendezvous::claim(place_, options_.takeover);
  if (!rendezvous) return rendezvous.status();
  auto servers =
      stream::CoordinatorServers::bind((*rendezvous)->endpoint(), options_.listen, keys_);
  if (!servers) return servers.status();
  if (Status status = (*rendezvous)->announce(protocol::kProtocolVersion); !status) return status;
  protocol::CoordinatorConfig config;
  config.run = (*rendezvous)->run();
  config.world_size = options_.world_size;
  config.launch = options_.launch;
  config.policy = options_.policy;
  config.heartbeat = options_.heartbeat;
  config.member_timeout = options_.member_timeout;
  config.attempt_timeout = options_.attempt_timeout;
  config.compare_every = options_.compare_every;
  config.min_receivers = options_.min_receivers;
  config.p2p = options_.mode == Mode::kP2p;
  config.slots = options_.slots;
  config.max_dirty = options_.max_dirty;
  config.clock = base::host_identity();
  rendezvous_ = std::move(*rendezvous);
  listening_ = servers->listening();
  servers_.emplace(std::move(*servers));
  coordinator_.emplace(std::move(config), Clock::now());
  return Status::ok();
}

ControlLoop::~ControlLoop() {
  stop_ = true;
  waker_.wake();
  if (thread_.joinable()) thread_.join();
}

bool ControlLoop::wait(Deadline deadline,
                       const std::function<bool(const protocol::Source&)>& until) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [&] { return until(source_); });
}

CoordinatorView ControlLoop::view() const {
  const std::lock_guard lock(mutex_);
  return view_;
}

void ControlLoop::run() {
  pthread_setname_np(pthread_self(), "wc-control");
  while (!stop_) {
    try {
      turn();
    } catch (const std::exception& error) {
      base::log(LogLevel::kError, "control_loop_failed", {{"why", error.what()}});
      return;
    }
  }
  {
    const std::lock_guard lock(mutex_);
    source_.leave(Clock::now());
  }
  if (coordinator_) coordinator_->leave();
  exchange();
  link_.close(kFarewell);
  if (servers_) servers_->close(kFarewell);
}

std::chrono::milliseconds ControlLoop::wait_time(Clock::time_point now) const {
  Clock::time_point at = now + options_.heartbeat;
  {
    const std::lock_guard lock(mutex_);
    at = std::min(at, source_.next_wakeup());
  }
  if (coordinator_) at = std::min(at, coordinator_->next_wakeup());
  return std::clamp(std::chrono::ceil<std::chrono::milliseconds>(at - now),
                    std::chrono::milliseconds(0), std::chrono::milliseconds(1000));
}

void ControlLoop::turn() {
  const auto servers = servers_ ? servers_->handles() : std::array<void*, 2>{};
  stream::wait_for_work(waker_, {servers[0], servers[1], link_.handle()}, wait_time(Clock::now()));
  // What came while this thread (or the whole process) did not run is heard before the clock is
  // looked at: nobody is called silent whose messages lie here.
  pump_server();
  pump_client();
  const auto now = Clock::now();
  if (coordinator_) coordinator_->tick(now);
  {
    const std::lock_guard lock(mutex_);
    if (source_.wants_report(now)) source_.set_report(report_());
    source_.tick(now);
  }
  exchange();
  look_for_successor(now);
  seek_coordinator(now);
  sweep_now_and_then(now);
}

void ControlLoop::pump_server() {
  if (!servers_) return;
  for (int i = 0; i < kMaxMessagesATurn; ++i) {
    const auto received = servers_->receive();
    if (!received) return;
    take(*received);
  }
}

void ControlLoop::take(const stream::FromPeer& received) {
  const auto message = protocol::decode(bytes_of(received.bytes));
  if (!message) {
    base::log(LogLevel::kDebug, "message_refused", {{"why", message.status().to_string()}});
    const auto member = protocol::peek_member(bytes_of(received.bytes));
    if (message.status().code() == Code::kMismatch && member) {
      refuse(received.peer, *member, protocol::Refusal::kProtocol, message.status().message());
    } else {
      ++refused_;
    }
    return;
  }
  if (Status status = stream::check_role(received.role, message->member); !status) {
    if (role_warning_.allow(Clock::now())) {
      base::log(LogLevel::kWarn, "role_refused", {{"why", status.message()}});
    }
    refuse(received.peer, message->member, protocol::Refusal::kRole, status.message());
    return;
  }
  if (const auto* request = std::get_if<protocol::StatusRequest>(&message->body)) {
    show(received.peer, *message, request->ordinal);
    return;
  }
  // Who holds the meeting place is the newest run; a peer's word alone stops no trainer.
  const Run named = newest_run_in(*message);
  if (named <= coordinator_->run() || rendezvous_->superseded()) {
    coordinator_->receive(Clock::now(), received.peer, *message);
    return;
  }
  refuse(received.peer, message->member, protocol::Refusal::kSuperseded,
         "run " + to_string(coordinator_->run()) + " publishes in " + place_ +
             ", but this member has obeyed the newer run " + to_string(named) +
             "; start the member again, or give it the directory of that run");
}

/// Observers take nothing from members: they are no part of the machine, and heard so often only.
void ControlLoop::show(protocol::Peer peer, const protocol::Message& asked,
                       std::uint64_t ordinal) {
  const auto now = Clock::now();
  if (!desk_.has_time(now)) return;
  protocol::StatusAnswer answer{ordinal, coordinator_->picture(now)};
  desk_.spend(answer.status.trainers.size() + answer.status.engines.size());
  answer.status.job = options_.job;
  answer.status.listening = listening_;
  answer.status.refused += refused_ + coordinator_->counters().dropped + servers_->refused();
  [[maybe_unused]] const Status sent =
      servers_->send(peer, {coordinator_->run(), asked.member, std::move(answer)});
}

void ControlLoop::refuse(protocol::Peer peer, const protocol::Member& member,
                         protocol::Refusal reason, std::string why) {
  ++refused_;
  [[maybe_unused]] const Status sent = servers_->send(
      peer, {coordinator_->run(), member, protocol::Refused{reason, std::move(why)}});
}

void ControlLoop::pump_client() {
  for (int i = 0; i < kMaxMessagesATurn; ++i) {
    const auto message = link_.receive();
    if (!message) return;
    const std::lock_guard lock(mutex_);
    source_.receive(Clock::now(), *message);
  }
}

void ControlLoop::exchange() {
  // Coordinator and rank 0's source answer each other here until both are silent.
  for (;;) {
    std::vector<protocol::Message> from_source;
    {
      const std::lock_guard lock(mutex_);
      from_source = source_.take_outbox();
    }
    std::vector<protocol::Outgoing> from_coordinator;
    if (coordinator_) {
      for (const auto& message : from_source) {
        coordinator_->receive(Clock::now(), kLocalPeer, message);
      }
      from_coordinator = coordinator_->take_outbox();
    } else {
      send_from_source(std::move(from_source));
      break;
    }
    if (from_source.empty() && from_coordinator.empty()) break;
    send_from_coordinator(std::move(from_coordinator));
  }
  {
    const std::lock_guard lock(mutex_);
    if (coordinator_) {
      view_ = {coordinator_->receivers(), coordinator_->counters(), coordinator_->superseded(),
               servers_ ? servers_->refused() : view_.refused_connections};
    }
  }
  changed_.notify_all();
  pass_failpoints();
  if (!coordinator_) return;
  trace_applied();
  for (const auto& note : coordinator_->take_notes()) {
    log_line(note.warning ? LogLevel::kWarn : LogLevel::kDebug, note.text);
  }
}

void ControlLoop::trace_applied() {
  const auto& counters = coordinator_->counters();
  if (std::exchange(seen_applied_, counters.last_applied) == counters.last_applied) return;
  if (counters.last_captured_at_ns == 0 || counters.last_apply_ns <= 0) return;
  const Clock::time_point point{std::chrono::nanoseconds(counters.last_captured_at_ns)};
  base::trace_span("publish", "publish to applied", point,
                   point + std::chrono::nanoseconds(counters.last_apply_ns),
                   {.version = counters.last_applied});
}

void ControlLoop::pass_failpoints() {
  std::uint64_t published = 0;
  std::uint64_t committed = 0;
  {
    const std::lock_guard lock(mutex_);
    published = source_.published();
    committed = source_.committed();
  }
  // Once for each version: receivers have been asked to stage it, may serve it.
  if (std::exchange(seen_published_, published) != published) {
    base::failpoint("trainer.published", published);
  }
  if (std::exchange(seen_committed_, committed) != committed) {
    base::failpoint("trainer.committed", committed);
  }
}

void ControlLoop::send_from_coordinator(std::vector<protocol::Outgoing> messages) {
  for (const auto& out : messages) {
    if (out.peer == kLocalPeer) {
      const std::lock_guard lock(mutex_);
      source_.receive(Clock::now(), out.message);
      continue;
    }
    if (!servers_) continue;
    // A peer that is gone or does not read is found out by its silence.
    [[maybe_unused]] const Status sent = servers_->send(out.peer, out.message);
  }
}

void ControlLoop::send_from_source(std::vector<protocol::Message> messages) {
  for (const auto& message : messages) link_.send(message);
}

void ControlLoop::seek_coordinator(Clock::time_point now) {
  if (coordinator_) return;
  {
    const std::lock_guard lock(mutex_);
    if (source_.joined()) return;
  }
  // Connecting takes its time; the trainer's thread must not wait for it.
  link_.seek(now, [this] {
    const std::lock_guard lock(mutex_);
    return source_.take_reconnect();
  });
}

void ControlLoop::look_for_successor(Clock::time_point now) {
  if (!servers_ || now < next_successor_look_) return;
  next_successor_look_ = now + options_.heartbeat;
  if (!rendezvous_->superseded()) return;
  // Members must not stay with a run that publishes no more: they are told to look for the next
  // one, and find nobody here.
  coordinator_->leave();
  exchange();
  servers_->close(kFarewell);
  servers_.reset();
  // The successor announces itself once it listens; until then it is only known that it came.
  Run successor = coordinator_->run();
  ++successor.started_us;
  if (const auto announcement = stream::read_announcement(place_)) {
    successor = std::max(successor, announcement->run);
  }
  protocol::Member own;
  {
    const std::lock_guard lock(mutex_);
    own = source_.member();
  }
  coordinator_->receive(now, kLocalPeer, {successor, own, protocol::Bye{}});
  exchange();
}

void ControlLoop::sweep_now_and_then(Clock::time_point now) {
  // Engines may still serve from a dead run; what they let go is removed here (or by them).
  if (!sweeping_ || now < next_sweep_) return;
  next_sweep_ = now + kSweepPeriod;
  sweeping_ = staging::sweep(options_.job).held != 0;
}

}  // namespace weightcast::publisher
