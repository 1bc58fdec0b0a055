// The source's side of sessions (session.hpp). A pure state machine: asks, ends of flows and times in;
// answers and actions out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "transport/nccl/session.hpp"

namespace weightcast::transport {

/// What a source offers now.
struct SessionOffer {
  Version version;
  std::uint64_t generation = 0;
  std::uint64_t plan = 0;
  std::string device;
  int nccl_version = 0;
  std::uint32_t expected = 0;  ///< in the place of SessionOptions::expected; 0: that one
};

/// The source's side, for one share and one GPU. Thread safety: one thread.
class SessionHost {
 public:
  struct Action {
    enum class Kind {
      kMakeId,  ///< call Nccl::unique_id, then id_made()
      kStart,   ///< join the communicator or take the kept one, and start the flow; then flow_ended()
      kAbort,   ///< end the flow, which has started; then flow_ended()
      kDrop     ///< end the communicator that was kept from `session`
    };
    Kind kind = Kind::kMakeId;
    std::uint64_t session = 0;
    std::uint64_t kept = 0;  ///< as SessionAnswer has it
    bool keeps = false;
    driver::NcclUniqueId id{};
    int size = 0;
    std::uint32_t first = 0;
    std::vector<std::string> receivers{};  ///< rank 1 and on
    std::size_t neighbours = 0;            ///< that get it from those
  };

  explicit SessionHost(const SessionOptions& options) : options_(options) {}

  /// A version is there to be fetched; what was before is over: a running flow is aborted.
  void offer(const SessionOffer& offer, Clock::time_point now);
  /// Nothing is offered any more.
  void withdraw(Clock::time_point now);

  SessionAnswer ask(const SessionAsk& ask, Clock::time_point now);
  /// Who has that name wants something else than what is offered.
  void gone(const std::string& name, Clock::time_point now);
  void id_made(std::uint64_t session, const Result<driver::NcclUniqueId>& id, Clock::time_point now);
  /// At once when the flow fails; flow_ended() follows. Who asks is not told to go any more.
  void flow_failing(std::uint64_t session);
  /// After kStart, exactly once: buffers are out of quarantine, too.
  void flow_ended(std::uint64_t session, const Status& status, Clock::time_point now);
  /// Sessions whose communicators are kept.
  std::vector<std::uint64_t> kept() const;
  /// The communicator that was kept from there is gone.
  void kept_lost(std::uint64_t session) { kept_.erase(session); }
  /// When time has passed; at least every options.window / 4.
  void tick(Clock::time_point now);
  /// What is to be done, once.
  std::vector<Action> take_actions();

  /// Whether nobody asks and nothing is under way.
  bool is_idle() const noexcept { return phase_ == Phase::kIdle; }
  /// Why receivers are sent to another transport; ok: they are not.
  const Status& status() const noexcept { return refused_; }

 private:
  enum class Phase { kIdle, kGathering, kMakingId, kRunning, kAborting };
  struct Guest {
    SessionAsk ask;
    Clock::time_point heard;
    std::uint64_t in_session = 0;  ///< that it was told to go to
    std::uint64_t turn = 0;        ///< order of asking
    bool is_done = false;          ///< the session that it went to ended well; what it asked before
                                   ///< may still come
    bool was_neighbour = false;    ///< of that session, which may have ended well without it
    Clock::time_point done_at{};
  };
  struct Kept {
    std::vector<std::string> members;  ///< by rank - 1
    std::uint64_t version = 0;         ///< number of the newest one that a member asked for with it
  };
  struct Neighbour {
    std::string leader;
    std::uint32_t seat = 0;
    std::string board{};  ///< of the leader, and its incarnation, as the session began
    std::uint64_t leader_ask = 0;
  };
  Status check(const SessionAsk& ask) const;
  void gather(Clock::time_point now);
  void begin(const std::vector<std::string>& here);
  void start();
  void seat(const std::vector<std::string>& here);
  bool is_ranked(const std::string& name) const;
  Kept* kept_of(const SessionAsk& ask);
  void use_or_drop_kept();
  void drop_unused();
  void abort();
  void forget_silent(Clock::time_point now);
  std::vector<std::string> waiting() const;
  SessionAnswer go(const std::string& name);

  SessionOptions options_;
  std::optional<SessionOffer> offer_;
  std::map<std::string, Guest> guests_;
  Phase phase_ = Phase::kIdle;
  std::uint64_t session_ = 0;
  driver::NcclUniqueId id_{};
  std::map<std::uint64_t, Kept> kept_;  ///< by session
  std::uint64_t from_ = 0;              ///< the session goes on in the communicator of that one
  bool keeps_ = false;                  ///< that communicator will be kept
  std::uint64_t version_ = 0;           ///< number of what the session brings
  std::vector<std::string> members_;  ///< of the session's communicator, by rank - 1
  std::map<std::string, Neighbour> neighbours_;  ///< of the session
  std::uint32_t first_ = 0;
  Clock::time_point gathering_since_{};
  std::uint64_t next_turn_ = 1;
  std::uint32_t failures_ = 0;
  bool is_of_offer_ = false;  ///< the session is one of the present offer
  Status refused_;
  std::vector<Action> actions_;
};

}  // namespace weightcast::transport
