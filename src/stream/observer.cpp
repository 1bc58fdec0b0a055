#include "stream/observer.hpp"

#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <span>
#include <utility>

#include "protocol/wire.hpp"
#include "stream/place_leftovers.hpp"
#include "stream/probe.hpp"

namespace weightcast::stream {
namespace {

constexpr auto kAskAgain = std::chrono::milliseconds(250);
/// One that lives and is reached answers sooner; after that it is found out what may be wrong.
constexpr auto kSuspicious = std::chrono::milliseconds(400);
constexpr auto kConnecting = std::chrono::milliseconds(5);

class Observer {
 public:
  Observer(const Asked& asked, std::unique_ptr<ControlClient> client)
      : asked_(asked), client_(std::move(client)) {}

  Result<JobStatus> run(Deadline deadline) {
    const auto began = Clock::now();
    bool is_suspicious = false;
    const Duration patience = std::min<Duration>(kSuspicious, (deadline - began) / 2);
    Clock::time_point ask_at = began;
    for (auto now = began; now < deadline; now = Clock::now()) {
      if (now >= ask_at) ask_at = now + (ask() ? Duration(kAskAgain) : Duration(kConnecting));
      if (!is_suspicious && now - began >= patience) {
        is_suspicious = true;
        if (Status found = look_closer(deadline); !found) return found;
      }
      wait_until(std::min(deadline, ask_at));
      if (auto answer = hear()) return std::move(*answer);
    }
    return nobody_answers(Clock::now() - began);
  }

 private:
  bool ask() {
    // Over tcp the key says the role; on this host either is believed.
    const bool as_source = asked_.keys && asked_.keys->role() == keys::Role::kTrainer;
    const protocol::Message request{
        {},
        {as_source ? protocol::Role::kSource : protocol::Role::kReceiver,
         "observer-" + std::to_string(::getpid()), 1},
        protocol::StatusRequest{++ordinal_}};
    return client_->send(std::span<const char>(protocol::encode(request))).is_ok();
  }

  void wait_until(Deadline deadline) {
    zmq_pollitem_t item{client_->handle(), 0, ZMQ_POLLIN, 0};
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    ::zmq_poll(&item, 1, std::max<long>(0, static_cast<long>(wait.count())));
  }

  std::optional<Result<JobStatus>> hear() {
    while (const auto received = client_->receive()) {
      auto message =
          protocol::decode(std::as_bytes(std::span(received->bytes.data(), received->bytes.size())));
      if (!message) return Result<JobStatus>(message.status());
      if (auto* answer = std::get_if<protocol::StatusAnswer>(&message->body)) {
        if (answer->ordinal <= ordinal_) return Result<JobStatus>(std::move(answer->status));
      } else if (const auto* refused = std::get_if<protocol::Refused>(&message->body)) {
        const bool is_protocol = refused->reason == protocol::Refusal::kProtocol;
        return Result<JobStatus>(
            Status(is_protocol ? Code::kMismatch : Code::kDenied, refused->message));
      }
    }
    return std::nullopt;
  }

  /// @return what is wrong; success where there may be an answer yet
  Status look_closer(Deadline deadline) const {
    if (asked_.place.empty()) return look_at_connection(deadline);
    const auto state = look_at_place(asked_.place);
    if (!state || state->is_held) return Status::ok();
    return {Code::kNotFound, "process " + std::to_string(asked_.pid) + " announced itself in '" +
                                 asked_.place +
                                 "' and has ended without a goodbye: no trainer publishes this now; "
                                 "start it again, engines find it by themselves"};
  }

  Status look_at_connection(Deadline deadline) const {
    const Probe probe = probe_coordinator(asked_.endpoint, asked_.keys, deadline);
    const std::string who = "the coordinator at " + asked_.endpoint;
    switch (probe.end) {
      case ProbeEnd::kUnreachable:
        return {Code::kUnavailable, "no coordinator is reached at " + asked_.endpoint + " (" +
                                        probe.text +
                                        "): check host and port, that the trainer runs with "
                                        "option `listen`, and that no firewall is between"};
      case ProbeEnd::kKeyDenied:
        return {Code::kDenied, who + " refused this key: it is on no list there; copy the folder "
                                     "of keys from the trainer's host (option `keys`)"};
      case ProbeEnd::kNoHandshake:
        return {Code::kDenied, who + ": " + probe.text +
                                   "; this folder's trainer.public is not that trainer's key: "
                                   "copy the folder from its host (option `keys`), or correct "
                                   "the port"};
      case ProbeEnd::kOtherVersion: return {Code::kMismatch, who + ": " + probe.text};
      case ProbeEnd::kWrongRole: return {Code::kDenied, who + ": " + probe.text};
      case ProbeEnd::kAnswered:
      case ProbeEnd::kNonsense:
      case ProbeEnd::kSilent: break;
    }
    return Status::ok();
  }

  Status nobody_answers(Duration waited) {
    const std::string time =
        std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(waited).count()) +
        " ms";
    if (asked_.place.empty()) {
      return {Code::kDeadline, "the coordinator at " + asked_.endpoint +
                                   " takes connections but has not answered for " + time +
                                   ": its process is stopped, overloaded, or asked by too many"};
    }
    return {Code::kDeadline, "process " + std::to_string(asked_.pid) + " publishes in '" +
                                 asked_.place + "' but has not answered for " + time +
                                 ": it is stopped (a debugger, SIGSTOP), or has no processor"};
  }

  const Asked& asked_;
  const std::unique_ptr<ControlClient> client_;
  std::uint64_t ordinal_ = 0;
};

}  // namespace

Result<JobStatus> observe(const Asked& asked, Deadline deadline) {
  auto client = ControlClient::connect(asked.endpoint, {}, asked.keys);
  if (!client) return client.status();
  return Observer(asked, std::move(*client)).run(deadline);
}

}  // namespace weightcast::stream
