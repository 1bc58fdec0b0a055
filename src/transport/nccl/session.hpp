// How the members of a communicator find that all of them are there, before anything of NCCL is
// called: a kernel that waits for a peer takes multiprocessors until it comes. Here is what they say to
// each other; session_host.hpp and session_guest.hpp are the two sides.
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
#include <string>

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

}  // namespace weightcast::transport
