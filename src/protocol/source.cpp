#include "protocol/source.hpp"

#include <algorithm>
#include <utility>

#include "protocol/seeded_bug.hpp"

namespace weightcast::protocol {
namespace {
/// While no slot is free the locks are tried this often: readers let go without telling us.
constexpr auto kSlotRetry = std::chrono::milliseconds(2);
}  // namespace

Source::Source(SourceConfig config, SlotBook& slots, Clock::time_point now)
    : config_(std::move(config)),
      slots_(slots),
      me_{Role::kSource, "rank-" + std::to_string(config_.rank), config_.incarnation},
      last_heard_(now),
      last_tick_(now),
      next_send_(now) {}

bool Source::granted_now() const noexcept {
  if (!joined_ || !orders_.grant_open || grant_used_ || !ready_) return false;
  if (seeded(Bug::kLateGrantUsed) && orders_.grant_point < next_point_) return true;
  return orders_.grant_point == kNextPoint || orders_.grant_point == next_point_;
}

PointDecision Source::at_point(Clock::time_point now, bool may_wait, bool insist) {
  if (insist && may_wait && next_point_ > 1) retake_point(now);
  PointDecision decision;
  decision.point = next_point_;
  if (granted_now() && !capture_) {
    decision.kind = PointDecision::Kind::kCapture;
    decision.slot = slots_.begin_write(orders_.grant_ordinal);
    decision.run = run_;
    decision.compare = orders_.compare;
    const std::uint64_t point =
        seeded(Bug::kLateGrantUsed) && orders_.grant_point < next_point_ ? orders_.grant_point
                                                                         : next_point_;
    capture_ = Capture{orders_.grant_ordinal, point, decision.slot, false};
    last_captured_ = point;
    last_captured_grant_ = orders_.grant_ordinal;
    grant_used_ = true;
    ready_ = false;
    coalesced_in_row_ = 0;
    waiting_ = false;
    pass_point(now);
    return decision;
  }
  if (may_wait && (insist || coalesced_in_row_ >= config_.max_coalesced)) {
    decision.kind = PointDecision::Kind::kWait;
    if (!waiting_) {
      waiting_ = true;
      send_state(now);
    }
    return decision;
  }
  ++coalesced_in_row_;
  pass_point(now);
  return decision;
}

void Source::retake_point(Clock::time_point) {
  // A number of its own would be one that ranks whose flush ended otherwise do not count: from then
  // on equal numbers would stand for different steps. Nobody has stepped since the last point, so
  // that one is taken again; it was never published, as this rank did not seal it for good.
  --next_point_;
  const bool ahead = joined_ && orders_.grant_open && !grant_used_ &&
                     orders_.grant_point != kNextPoint && orders_.grant_point > next_point_;
  if (ahead) void_grant("flush");
}

std::uint64_t Source::skip_point(Clock::time_point now, const std::string& why) {
  const std::uint64_t point = next_point_;
  if (granted_now()) void_grant(why);
  pass_point(now);
  return point;
}

void Source::pass_point(Clock::time_point now) {
  ++next_point_;
  started_ = true;
  const bool was_waiting = std::exchange(waiting_, false);
  const bool open = joined_ && orders_.grant_open && !grant_used_;
  if (open && orders_.grant_point < next_point_ && !seeded(Bug::kLateGrantUsed)) {
    void_grant(kMissed);
  }
  // The coordinator aims ahead of next_point; with one rank it need not know it.
  if (was_waiting || grant_void_ || config_.world_size > 1) send_state(now);
}

void Source::void_grant(const std::string& why) {
  grant_used_ = true;
  grant_void_ = true;
  void_reason_ = why;
}

void Source::capture_begun(plan::Share share) {
  if (!joined_ || !capture_ || capture_->cancelled) return;
  send(Capturing{capture_->grant, capture_->point, std::move(share)});
}

void Source::capture_sealed(Clock::time_point now, Sealed sealed) {
  if (!capture_) return;
  const Capture capture = *std::exchange(capture_, std::nullopt);
  if (capture.cancelled) {
    slots_.abandon(capture.slot);
  } else {
    slots_.seal(capture.slot, capture.point);
    sealed.grant_ordinal = capture.grant;
    sealed.point = capture.point;
    unacknowledged_ = std::move(sealed);
    send(*unacknowledged_);
    next_resend_ = now + config_.heartbeat;
  }
  refresh_reservation(now);
  send_state(now);
}

void Source::capture_failed(Clock::time_point now, const std::string& why) {
  if (!capture_) return;
  const Capture capture = *std::exchange(capture_, std::nullopt);
  slots_.abandon(capture.slot);
  last_captured_ = 0;
  if (!capture.cancelled && capture.grant == orders_.grant_ordinal) void_grant(why);
  refresh_reservation(now);
  send_state(now);
}

bool Source::request_flush(Clock::time_point now) {
  verdict_.reset();
  if (last_captured_ == 0) return false;
  flush_ = FlushRequest{++flush_ordinal_, last_captured_, last_captured_grant_};
  if (joined_) send(*flush_);
  next_resend_ = now + config_.heartbeat;
  return true;
}

void Source::receive(Clock::time_point now, const Message& message) {
  if (left_) return;
  const bool mine = message.member == me_;
  if (const auto* refused = std::get_if<Refused>(&message.body)) {
    if (!mine || message.run < run_) {
      ++dropped_;
      return;
    }
    refused_ = *refused;
    if (refused->reason == Refusal::kStale) rejoin(now);
    return;
  }
  if (const auto* welcome = std::get_if<Welcome>(&message.body)) {
    if (!mine || message.run < run_) {
      ++dropped_;
      return;
    }
    on_welcome(now, message, *welcome);
    return;
  }
  if (!mine || !joined_ || message.run != run_) {
    ++dropped_;
    return;
  }
  last_heard_ = now;
  if (const auto* orders = std::get_if<SourceOrders>(&message.body)) {
    on_orders(now, *orders);
  } else if (const auto* verdict = std::get_if<Verdict>(&message.body)) {
    if (flush_ && verdict->ordinal == flush_->ordinal) {
      verdict_ = *verdict;
      flush_.reset();
    }
  } else {
    ++dropped_;
  }
}

void Source::on_welcome(Clock::time_point now, const Message& message, const Welcome& welcome) {
  last_heard_ = now;
  refused_.reset();
  if (joined_ && message.run == run_) return;  // a repeated one
  if (message.run != run_) begin_run(message.run, welcome.next_point);
  joined_ = true;
  started_ = true;
  refresh_reservation(now);
  send_state(now);
}

void Source::begin_run(const Run& run, std::uint64_t next_point) {
  // Points are counted anew in every run, as its rank 0 counts them. A process that has known no
  // run began to count with its launch, which the coordinator confirms by 1, or replaces another.
  next_point_ = run_.is_none() ? std::max(next_point_, next_point) : next_point;
  run_ = run;
  // Another life of the coordinator knows nothing of what was sealed for the former one.
  slots_.release_unless([](std::uint64_t, std::uint64_t) { return false; });
  if (capture_) capture_->cancelled = true;
  unacknowledged_.reset();
  orders_ = SourceOrders{};
  grant_used_ = false;
  grant_void_ = false;
  last_captured_ = 0;
  if (flush_) verdict_ = Verdict{flush_->ordinal, 0, {}, {}, 0};
  flush_.reset();
}

void Source::on_orders(Clock::time_point now, const SourceOrders& orders) {
  if (orders.sequence <= orders_.sequence) {
    ++dropped_;
    return;
  }
  const bool new_grant = orders.grant_ordinal > orders_.grant_ordinal;
  orders_ = orders;
  bool changed = new_grant;
  if (new_grant) {
    grant_used_ = false;
    grant_void_ = false;
    void_reason_.clear();
    if (capture_) capture_->cancelled = true;  // of an older grant, which is over
    if (orders.grant_open && orders.grant_point < next_point_ && !seeded(Bug::kLateGrantUsed)) {
      void_grant(kMissed);
    }
  }
  if (capture_ && capture_->grant == orders.grant_ordinal && !orders.grant_open) {
    capture_->cancelled = true;
  }
  if (unacknowledged_ && (orders.sealed_ordinal >= unacknowledged_->grant_ordinal ||
                          orders.grant_ordinal > unacknowledged_->grant_ordinal ||
                          !orders.grant_open)) {
    unacknowledged_.reset();
  }
  slots_.release_unless([&](std::uint64_t grant, std::uint64_t point) {
    if (seeded(Bug::kReuseKeptSlot)) return false;
    if (grant >= orders.grant_ordinal && orders.grant_open) return true;
    return std::find(orders.keep.begin(), orders.keep.end(), point) != orders.keep.end();
  });
  const bool was_ready = ready_;
  refresh_reservation(now);
  if (changed || ready_ != was_ready) send_state(now);
}

void Source::refresh_reservation(Clock::time_point) { ready_ = !capture_ && slots_.reserve(); }

void Source::rejoin(Clock::time_point now) {
  ++me_.incarnation;
  joined_ = false;
  sequence_ = 0;
  orders_ = SourceOrders{};
  grant_used_ = false;
  grant_void_ = false;
  waiting_ = false;
  if (capture_) capture_->cancelled = true;
  unacknowledged_.reset();
  last_heard_ = now;
  say_hello(now);
}

void Source::say_hello(Clock::time_point now) {
  Hello hello;
  hello.rank = config_.rank;
  hello.world_size = config_.world_size;
  hello.launch = config_.launch;
  hello.policy = config_.policy;
  hello.highest_run = run_;
  hello.clock = config_.clock;
  hello.host = config_.host;
  hello.pid = config_.pid;
  hello.next_point = started_ ? next_point_ : 0;
  send(std::move(hello));
  next_send_ = now + config_.heartbeat;
}

void Source::send_state(Clock::time_point now) {
  if (!joined_) return;
  SourceState state;
  state.sequence = ++sequence_;
  state.next_point = next_point_;
  state.waiting = waiting_;
  state.ready = ready_;
  state.grant_ordinal = orders_.grant_ordinal;
  state.grant_void = grant_void_;
  state.void_reason = void_reason_;
  if (report_ && wants_report(now)) {
    state.report = report_;
    state.report->blocked = blocked();
    next_report_ = now + config_.heartbeat;
  }
  send(std::move(state));
  next_send_ = now + config_.heartbeat;
}

void Source::tick(Clock::time_point now) {
  if (left_) return;
  // After a pause of this process what the others sent meanwhile may still be on its way.
  if (now - last_tick_ > config_.member_timeout / 2) last_heard_ = now;
  last_tick_ = now;
  if (joined_ && now - last_heard_ > config_.member_timeout) {
    reconnect_ = true;
    rejoin(now);
    return;
  }
  if (joined_ && !ready_ && !capture_) {
    refresh_reservation(now);
    if (ready_) send_state(now);
  }
  // By a clock of its own: states are sent at every point, which may be often.
  if (joined_ && now >= next_resend_ && (unacknowledged_ || flush_)) {
    next_resend_ = now + config_.heartbeat;
    if (unacknowledged_) send(*unacknowledged_);
    if (flush_) send(*flush_);
  }
  if (now < next_send_) return;
  if (!joined_) {
    if (now - last_heard_ > config_.member_timeout) {
      last_heard_ = now;
      reconnect_ = true;
    }
    say_hello(now);
    return;
  }
  send_state(now);
}

Clock::time_point Source::next_wakeup() const noexcept {
  Clock::time_point at = next_send_;
  if (joined_ && !ready_ && !capture_) at = std::min(at, last_tick_ + kSlotRetry);
  if (joined_ && (unacknowledged_ || flush_)) at = std::min(at, next_resend_);
  return at;
}

void Source::leave(Clock::time_point) {
  if (joined_) send(Bye{});
  left_ = true;
}

void Source::send(Body body) { outbox_.push_back(Message{run_, me_, std::move(body)}); }

std::vector<Message> Source::take_outbox() { return std::exchange(outbox_, {}); }

std::string Source::blocked() const {
  if (refused_) return refused_->message;
  if (!joined_) return "not in touch with the coordinator (rank 0)";
  if (orders_.grant_open && !grant_used_) return {};
  if (capture_) return "the last capture has not ended";
  if (!ready_) return "no free slot: all " + std::to_string(slots_.size()) + " are held by readers";
  return "the coordinator waits for other ranks or for receivers to apply the last version";
}

}  // namespace weightcast::protocol
