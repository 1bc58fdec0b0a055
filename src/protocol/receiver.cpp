#include "protocol/receiver.hpp"

#include <algorithm>

#include "protocol/seeded_bug.hpp"

namespace weightcast::protocol {

Receiver::Receiver(ReceiverConfig config, Clock::time_point now)
    : config_(std::move(config)),
      me_{Role::kReceiver, config_.name, config_.incarnation},
      last_heard_(now),
      last_tick_(now),
      next_send_(now) {}

void Receiver::receive(Clock::time_point now, const Message& message) {
  if (left_) return;
  const bool mine = message.member == me_;
  const bool older = message.run < run_ && !seeded(Bug::kStaleRunAccepted);
  if (const auto* refused = std::get_if<Refused>(&message.body)) {
    if (!mine || older) {
      ++dropped_;
      return;
    }
    refused_ = *refused;
    if (refused->reason == Refusal::kStale) rejoin(now);
    return;
  }
  if (std::holds_alternative<Welcome>(message.body)) {
    if (!mine || older) {
      ++dropped_;
      return;
    }
    last_heard_ = now;
    refused_.reset();
    if (joined_ && message.run == run_) return;
    if (message.run != run_) {
      stop_op();
      attempt_ = 0;
      phase_ = Phase::kIdle;
      failure_.clear();
      orders_ = ReceiverOrders{};
    }
    run_ = message.run;
    joined_ = true;
    send_state(now);
    return;
  }
  if (!mine || !joined_ || (message.run != run_ && !seeded(Bug::kStaleRunAccepted))) {
    ++dropped_;
    return;
  }
  last_heard_ = now;
  if (const auto* prepare = std::get_if<Prepare>(&message.body)) {
    on_prepare(now, message, *prepare);
  } else if (const auto* orders = std::get_if<ReceiverOrders>(&message.body)) {
    on_orders(now, *orders);
  } else if (const auto* ahead = std::get_if<Ahead>(&message.body)) {
    const Version version{message.run, ahead->number};
    if (op_ || wanted_ || version <= serving_) return;
    actions_.emplace_back(ReadAhead{version, ahead->manifest});
  } else {
    ++dropped_;
  }
}

void Receiver::on_prepare(Clock::time_point now, const Message& message, const Prepare& prepare) {
  if (prepare.attempt <= attempt_) {
    ++dropped_;  // repeated or overtaken
    return;
  }
  attempt_ = prepare.attempt;
  failure_.clear();
  const Version version{message.run, prepare.number};
  if (version <= serving_) {
    stop_op();
    phase_ = Phase::kApplied;
    send_state(now);
    return;
  }
  progress_ = 0;
  phase_ = seeded(Bug::kAckBeforePlacing) ? Phase::kStaged : Phase::kStaging;
  stop_op();
  wanted_ = Wanted{prepare.attempt, version, prepare.manifest, prepare.relay};
  start_wanted();
  send_state(now);
}

void Receiver::on_orders(Clock::time_point now, const ReceiverOrders& orders) {
  if (orders.sequence <= orders_.sequence && !seeded(Bug::kOldOrdersObeyed)) {
    ++dropped_;
    return;
  }
  orders_ = orders;
  published_ = std::max(published_, Version{run_, orders.published});
  const bool current =
      orders.attempt == attempt_ || (seeded(Bug::kStaleAttemptAccepted) && attempt_ != 0);
  if (!current) return;
  if (orders.order == Order::kCommit) {
    if (seeded(Bug::kAckBeforePlacing) && op_ && op_->state == OpState::kStaging) {
      op_->state = OpState::kSwitching;
      actions_.emplace_back(Switch{op_->id});
      return;
    }
    const bool staged = op_ && op_->state == OpState::kStaged &&
                        (op_->attempt == orders.attempt || seeded(Bug::kStaleAttemptAccepted));
    if (staged) {
      op_->state = OpState::kSwitching;
      actions_.emplace_back(Switch{op_->id});
    }
  } else if (orders.order == Order::kAbort && phase_ != Phase::kApplied) {
    stop_op();
    phase_ = Phase::kIdle;
    send_state(now);
  }
}

void Receiver::stop_op() {
  wanted_.reset();
  if (!op_) return;
  switch (op_->state) {
    case OpState::kStaging:
      op_->state = OpState::kCancelled;
      actions_.emplace_back(CancelStage{op_->id});
      if (seeded(Bug::kNoQuarantine)) op_.reset();
      break;
    case OpState::kStaged:
      actions_.emplace_back(DropStaged{op_->id});
      op_.reset();
      break;
    case OpState::kSwitching:
      // Its end comes by itself, but where bytes come only now that can take as long as a source is dead.
      if (config_.in_place) actions_.emplace_back(CancelStage{op_->id});
      break;
    case OpState::kCancelled:
      break;
  }
}

void Receiver::start_wanted() {
  if (op_ || !wanted_) return;
  if (wanted_->version <= serving_) {
    // What was being switched to when it was asked for again.
    wanted_.reset();
    phase_ = Phase::kApplied;
    return;
  }
  op_ = Op{next_op_++, wanted_->attempt, wanted_->version, OpState::kStaging};
  actions_.emplace_back(StartStage{op_->id, wanted_->version, std::move(wanted_->manifest),
                                   std::move(wanted_->relay)});
  wanted_.reset();
}

void Receiver::stage_done(Clock::time_point now, std::uint64_t op, const Status& status) {
  if (!op_ || op_->id != op) {
    if (status.is_ok()) actions_.emplace_back(DropStaged{op});
    return;
  }
  if (op_->state == OpState::kCancelled) {
    if (status.is_ok()) actions_.emplace_back(DropStaged{op});
    op_.reset();
    start_wanted();
    return;
  }
  if (op_->state != OpState::kStaging) return;
  if (status.is_ok()) {
    op_->state = OpState::kStaged;
    phase_ = Phase::kStaged;
  } else {
    op_.reset();
    phase_ = Phase::kFailed;
    failure_ = status.to_string();
  }
  send_state(now);
}

void Receiver::switched(Clock::time_point now, std::uint64_t op) {
  if (!op_ || op_->id != op || op_->state != OpState::kSwitching) return;
  serving_ = op_->version;
  applied_at_ns_ = now.time_since_epoch().count();
  if (op_->attempt == attempt_) {
    phase_ = Phase::kApplied;
    failure_.clear();
  }
  op_.reset();
  start_wanted();
  send_state(now);
}

void Receiver::switch_failed(Clock::time_point now, std::uint64_t op, const Status& status) {
  if (!op_ || op_->id != op || op_->state != OpState::kSwitching) return;
  if (op_->attempt == attempt_) {
    phase_ = Phase::kFailed;
    failure_ = status.to_string();
  }
  op_.reset();
  start_wanted();
  send_state(now);
}

void Receiver::set_dirty(Clock::time_point now, bool dirty) {
  if (dirty_ == dirty) return;
  dirty_ = dirty;
  send_state(now);
}

void Receiver::set_lagging(Clock::time_point now, bool lagging) {
  if (lagging_ == lagging) return;
  lagging_ = lagging;
  send_state(now);
}

void Receiver::become_in_place(Clock::time_point now) {
  if (config_.in_place) return;
  config_.in_place = true;
  rejoin(now);
}

void Receiver::rejoin(Clock::time_point now) {
  ++me_.incarnation;
  ++rejoined_;
  joined_ = false;
  next_report_ = now;
  sequence_ = 0;
  attempt_ = 0;
  phase_ = Phase::kIdle;
  orders_ = ReceiverOrders{};
  stop_op();
  last_heard_ = now;
  say_hello(now);
}

void Receiver::say_hello(Clock::time_point now) {
  Hello hello;
  hello.policy = config_.policy;
  hello.highest_run = run_;
  hello.serving = serving_;
  hello.in_place = config_.in_place;
  hello.over_network = config_.over_network;
  hello.clock = config_.clock;
  hello.relay_endpoint = config_.relay_endpoint;
  hello.host = config_.host;
  hello.pid = config_.pid;
  send(std::move(hello));
  next_send_ = now + config_.heartbeat;
}

void Receiver::send_state(Clock::time_point now) {
  if (!joined_) return;
  ReceiverState state;
  state.sequence = ++sequence_;
  state.attempt = attempt_;
  state.phase = phase_;
  state.failure = failure_;
  state.serving = serving_;
  state.lagging = lagging_;
  state.applied_at_ns = applied_at_ns_;
  state.dirty = dirty_;
  state.progress = progress_;
  if (report_ && wants_report(now)) {
    state.report = report_;
    next_report_ = now + config_.heartbeat;
  }
  send(std::move(state));
  next_send_ = now + config_.heartbeat;
}

void Receiver::tick(Clock::time_point now) {
  if (left_) return;
  // After a pause of this process what the others sent meanwhile may still be on its way.
  if (now - last_tick_ > config_.member_timeout / 2) last_heard_ = now;
  last_tick_ = now;
  if (now - last_heard_ > config_.member_timeout) {
    reconnect_ = true;
    if (joined_) {
      rejoin(now);
      return;
    }
    last_heard_ = now;
  }
  if (now < next_send_) return;
  if (joined_) {
    send_state(now);
  } else {
    say_hello(now);
  }
}

void Receiver::leave(Clock::time_point now, const Version& serves) {
  if (joined_) {
    // What was switched to just now counts in verdicts.
    serving_ = std::max(serving_, serves);
    send_state(now);
    send(Bye{});
  }
  left_ = true;
}

void Receiver::send(Body body) { outbox_.push_back(Message{run_, me_, std::move(body)}); }

}  // namespace weightcast::protocol
