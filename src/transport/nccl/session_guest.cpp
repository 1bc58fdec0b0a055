#include "transport/nccl/session_guest.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace weightcast::transport {

using Kind = SessionAnswer::Kind;

SessionGuest::SessionGuest(const SessionOptions& options, SessionAsk first, Clock::time_point now)
    : options_(options), ask_(std::move(first)), next_ask_(now), asking_since_(now),
      heard_(now) {}

void SessionGuest::fail(Status why) {
  phase_ = Phase::kFailed;
  status_ = std::move(why);
}

std::optional<SessionAsk> SessionGuest::next_ask(Clock::time_point now) {
  tick(now);
  if (phase_ != Phase::kAsking || now < next_ask_) return std::nullopt;
  next_ask_ = now + options_.ask_every;
  return ask_;
}

void SessionGuest::answered(const SessionAnswer& answer, Clock::time_point now) {
  if (phase_ != Phase::kAsking) return;
  heard_ = now;
  switch (answer.kind) {
    case Kind::kWait:
      return;
    case Kind::kRefuse:
      return fail(answer.status);
    case Kind::kGo:
      // An answer to an ask from before the failure.
      if (answer.session <= ask_.failed || !ask_.is_ready) return;
      if (answer.rank < 1 || answer.rank >= answer.size || answer.first > ask_.have) {
        return fail({Code::kInvalid, "the source's answer makes no sense: rank " +
                                         std::to_string(answer.rank) + " of " +
                                         std::to_string(answer.size) + " from bucket " +
                                         std::to_string(answer.first)});
      }
      if (!answer.board.empty() && ask_.place.empty()) return;  // to an ask from before
      go_ = answer;
      phase_ = Phase::kFlowing;
  }
}

void SessionGuest::flow_ended(const Status& status, std::uint32_t have, Clock::time_point now) {
  if (phase_ != Phase::kFlowing) return;
  if (status) {
    phase_ = Phase::kDone;
    return;
  }
  if (++failures_ >= options_.failures) {
    return fail({Code::kUnavailable, "NCCL failed " + std::to_string(failures_) +
                                         " times in a row, the last time: " + status.message()});
  }
  ask_.have = std::max(ask_.have, have);
  ask_.failed = go_.session;
  ask_.kept = 0;
  ask_.is_ready = false;
  phase_ = Phase::kAsking;
  next_ask_ = asking_since_ = heard_ = now;
}

void SessionGuest::rested(Clock::time_point now) {
  ask_.is_ready = true;
  next_ask_ = now;
}

void SessionGuest::tick(Clock::time_point now) {
  if (phase_ != Phase::kAsking) return;
  const bool is_silent = now - heard_ > options_.give_up;
  if (!is_silent && now - asking_since_ <= options_.wait_most) return;
  fail({Code::kUnavailable, is_silent ? "the source does not answer to asks for an nccl session"
                                      : "the source told to wait for an nccl session for too long"});
}

}  // namespace weightcast::transport
