#include "stream/observer.hpp"

#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <span>
#include <utility>

#include "protocol/wire.hpp"
#include "stream/rendezvous.hpp"

namespace weightcast::stream {
namespace {

constexpr auto kAskAgain = std::chrono::milliseconds(250);
/// A coordinator of this host that is alive answers sooner; then its lock is looked at.
constexpr auto kSuspicious = std::chrono::milliseconds(400);
constexpr auto kConnecting = std::chrono::milliseconds(5);

class Observer {
 public:
  Observer(const Asked& asked, std::unique_ptr<ControlClient> client)
      : asked_(asked), client_(std::move(client)) {}

  Result<JobStatus> run(Deadline deadline) {
    const auto began = Clock::now();
    bool looked_at_lock = asked_.place.empty();
    Clock::time_point ask_at = began;
    for (auto now = began; now < deadline; now = Clock::now()) {
      if (now >= ask_at) ask_at = now + (ask() ? Duration(kAskAgain) : Duration(kConnecting));
      if (!looked_at_lock && now - began >= kSuspicious) {
        looked_at_lock = true;
        const auto held = is_held(asked_.place);
        if (held && !*held) return left_behind();
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

  Status left_behind() const {
    return {Code::kNotFound, "process " + std::to_string(asked_.pid) + " announced itself in '" +
                                 asked_.place +
                                 "' and has ended without a goodbye: no trainer publishes this now; "
                                 "start it again, engines find it by themselves"};
  }

  Status nobody_answers(Duration waited) {
    const std::string time =
        std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(waited).count()) +
        " ms";
    if (!asked_.place.empty()) {
      return {Code::kDeadline, "process " + std::to_string(asked_.pid) + " publishes in '" +
                                   asked_.place + "' but has not answered for " + time +
                                   ": it is stopped (a debugger, SIGSTOP), or has no processor"};
    }
    const Contact contact = client_->contact();
    const std::string who = "the coordinator at " + asked_.endpoint;
    if (contact.established) {
      return {Code::kDeadline, who + " took the connection but has not answered for " + time +
                                   ": its process is stopped, overloaded, or asked by too many"};
    }
    if (contact.key_refused) {
      return {Code::kDenied, who + " refused this host's key: it is on no list there; copy the "
                                   "folder of keys from the trainer's host (option `keys`), or "
                                   "add this key to its engine.allowed"};
    }
    if (contact.reached) {
      return {Code::kDenied, who + " ended the connection without a word: this folder's "
                                   "trainer.public is not that trainer's key (option `keys`: "
                                   "copy the folder from its host), or something else than a "
                                   "weightcast trainer listens there"};
    }
    return {Code::kUnavailable, "nobody listens at " + asked_.endpoint + " (tried for " + time +
                                    "): check host and port, that the trainer runs with option "
                                    "`listen`, and that no firewall is between"};
  }

  const Asked& asked_;
  const std::unique_ptr<ControlClient> client_;
  std::uint64_t ordinal_ = 0;
};

}  // namespace

Result<JobStatus> observe(const Asked& asked, Deadline deadline) {
  ControlLimits limits;
  limits.watched = true;
  auto client = ControlClient::connect(asked.endpoint, limits, asked.keys);
  if (!client) return client.status();
  return Observer(asked, std::move(*client)).run(deadline);
}

}  // namespace weightcast::stream
