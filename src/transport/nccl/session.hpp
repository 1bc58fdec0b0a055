// How the members of a communicator find that all of them are there, before anything of NCCL is
// called: a kernel that waits for a peer takes multiprocessors until it comes. Pure state machines:
// messages, ends of flows and times in; answers and actions out.
//
// A receiver asks the source of a share, again and again, until it is told to go. The source gathers
// those who ask: until all that it expects are there, or, after the first one, for a window. Who comes
// later waits for the next session. A session that fails ends for all; each asks again at once, says
// how many buckets it has, and when its aborts are over. The next one begins when all who ask are so
// far, at the first bucket that somebody lacks, without those who fell silent. After some failures in
// a row the source refuses, and receivers go on over another transport.
//
// To make a communicator takes many times as long as to use it. So when a session is over its members
// may keep theirs, if all have room; a receiver says in its next ask which one of this source it still
// has. Where exactly those ask who were in it, and all of them still have it, they go on in it. Else it
// ends: the source drops it when it makes another one for somebody of it, receivers when they hear of
// that one. To end it needs no word between them, because nothing is under way in it.
//
// Engines of one place, that can read each other's memory, need one rank between them: the leader's. The
// others, its neighbours, take part in the session, but not in the communicator: what they lack counts
// for the first bucket, and the buckets come to them from the leader (staging/bucket_board.hpp). One that
// fails, or is put out, costs the session nothing and asks for the next.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <weightcast/types.hpp>

#include "driver/nccl.hpp"

namespace weightcast::transport {

struct SessionAsk {
  std::string name;                ///< of who asks, unique in the job
  std::uint64_t incarnation = 0;   ///< rises when it starts anew: its older asks are void
  Version version;
  std::uint64_t generation = 0;    ///< of the slot
  std::uint64_t plan = 0;          ///< fingerprint of buckets and their order
  std::string device;              ///< identity
  int nccl_version = 0;
  std::uint32_t have = 0;          ///< buckets, from the first one on
  std::uint64_t failed = 0;        ///< the session that it gave up last; 0: none
  bool is_ready = true;            ///< its aborts are over: it could go now
  std::uint64_t kept = 0;          ///< session of this source whose communicator it still has; 0: none
  bool may_keep = false;           ///< it has room to keep the one of the next session
  std::string place{};  ///< with others of the same one it shares a rank; empty: with nobody
  std::string board{};  ///< by which its neighbours get buckets from it; with a place only
};

struct SessionAnswer {
  enum class Kind {
    kWait,   ///< ask again
    kGo,
    kRefuse  ///< status says why; kStale: the version is gone; else take another transport
  };
  Kind kind = Kind::kWait;
  Status status;
  std::uint64_t session = 0;  ///< rises
  std::uint64_t kept = 0;     ///< go on in the communicator kept from that session; 0: make one, whose
                              ///< generation is `session`
  bool keeps = false;         ///< all keep it when the session has ended well; else all leave. A
                              ///< neighbour: it goes on keeping the one that it has of before
  int blocks = 0;             ///< as SessionOptions has it
  driver::NcclUniqueId id{};
  int rank = 0;               ///< the source is 0
  int size = 0;
  std::uint32_t first = 0;    ///< bucket to begin with
  std::uint32_t neighbours = 0;    ///< that get their buckets from who is told this
  std::string board{};             ///< it is one itself: where its leader's are; rank is the leader's
  std::uint64_t leader_ask = 0;    ///< and that leader's incarnation
  std::uint32_t seat = 0;          ///< on that board
};

struct SessionOptions {
  bool is_p2p = false;         ///< sessions of one receiver each, in the order of asking
  std::uint32_t expected = 0;  ///< receivers of a round; 0: not known, the window decides
  std::uint32_t most = 64;     ///< receivers of a session, neighbours among them
  Duration window = std::chrono::milliseconds(100);      ///< from the first ask, where not all have come
  Duration ask_every = std::chrono::milliseconds(10);    ///< a receiver that waits
  Duration silent = std::chrono::milliseconds(500);  ///< who has not asked for that long is gone; the
                                                     ///< window after a failure
  Duration fresh{};  ///< a session begins with those alone who have asked within that time, so that one
                     ///< who has just gone is waited for until it counts as silent; 0: with all
  Duration give_up = std::chrono::seconds(5);     ///< a receiver without an answer
  Duration wait_most = std::chrono::seconds(60);  ///< a receiver that is told to wait
  std::uint32_t failures = 3;  ///< in a row; then NCCL is given up for the version
  std::uint32_t keep = 0;      ///< communicators that a source keeps between sessions, at most
  std::uint32_t keep_versions = 8;  ///< one that no member had in these many versions is dropped
  int blocks = 0;              ///< of their kernels, at most; 0: NCCL's choice
};

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
  void use_or_drop_kept();
  void drop_unused();
  void abort();
  void forget_silent(Clock::time_point now);
  std::vector<std::string> waiting() const;
  SessionAnswer go(const std::string& name) const;

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

/// A receiver's side, for one share of one version. Thread safety: one thread.
class SessionGuest {
 public:
  enum class Phase {
    kAsking,
    kFlowing,  ///< go() says where; then flow_ended()
    kDone,
    kFailed    ///< status(): take another transport
  };

  SessionGuest(const SessionOptions& options, SessionAsk first, Clock::time_point now);

  /// The ask to send now, if it is time for one.
  std::optional<SessionAsk> next_ask(Clock::time_point now);
  void answered(const SessionAnswer& answer, Clock::time_point now);
  /// At once. @param have buckets, from the first one on
  void flow_ended(const Status& status, std::uint32_t have, Clock::time_point now);
  /// After a failure: buffers are out of quarantine.
  void rested(Clock::time_point now);
  /// Its communicator of before is gone.
  void kept_lost() { ask_.kept = 0; }
  /// It cannot read others' memory: from here on it asks for a rank of its own.
  void share_with_nobody() { ask_.place.clear(); }
  void tick(Clock::time_point now);

  Phase phase() const noexcept { return phase_; }
  const SessionAnswer& go() const noexcept { return go_; }
  const Status& status() const noexcept { return status_; }

 private:
  void fail(Status why);

  const SessionOptions options_;
  SessionAsk ask_;
  Phase phase_ = Phase::kAsking;
  Clock::time_point next_ask_;
  Clock::time_point asking_since_;
  Clock::time_point heard_;
  std::uint32_t failures_ = 0;
  SessionAnswer go_;
  Status status_;
};

}  // namespace weightcast::transport
