// What the engines of a host say to each other about a bucket ring in device memory: one of them, the
// leader, takes buckets off the wire; the others, its neighbours, copy them out of its ring. A board is a
// page of shared memory with counters alone; the bytes stay on the devices.
//
// The rule about reuse: the leader writes to a bucket's memory again once every neighbour has taken it
// or was put out. A neighbour counts a copy that is over as taken if, after its end, it finds its seat
// as it left it, in one atomic step: so what it counts was not written to meanwhile. One that stops is put out and finds that
// when it goes on; the leader never waits for it longer than it wants to. The leader's death shows by
// its lock, which the kernel drops.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <weightcast/status.hpp>

#include "driver/cuda.hpp"
#include "staging/shm_object.hpp"

namespace weightcast::staging {

/// Neighbours of a leader at a time.
inline constexpr std::uint32_t kBoardSeats = 63;

/// Buckets one behind the other in one allocation.
struct BoardRing {
  driver::IpcHandle memory{};
  std::uint64_t bucket_bytes = 0;
  std::uint32_t buckets = 0;
};

/// Buckets on their way through a ring: bucket `first` into its beginning, and round.
struct BoardFlow {
  std::uint64_t ask = 0;      ///< the leader's incarnation in its ask for the session; rises
  std::uint64_t session = 0;  ///< of the source; rises within an ask
  std::uint32_t first = 0;
  std::uint32_t seats = 0;    ///< neighbours, at most kBoardSeats
  bool operator==(const BoardFlow&) const = default;
};

struct BoardPage;

/// The leader's. Thread safety: one thread.
class BucketBoard {
 public:
  /// @param prefix owner_prefix() of an owner that nobody else is
  /// @return kExists, kDenied, kExhausted: shared memory has no room
  static Result<std::unique_ptr<BucketBoard>> create(const std::string& prefix);
  ~BucketBoard();  ///< unlinks
  BucketBoard(const BucketBoard&) = delete;
  BucketBoard& operator=(const BucketBoard&) = delete;

  const std::string& name() const noexcept { return name_; }

  /// Where the buckets lie from now on. With no flow open.
  void show(const BoardRing& ring) noexcept;
  /// Neighbours may come in; what was open before is closed.
  void open(const BoardFlow& flow) noexcept;
  /// Buckets below `end` have come whole.
  void set_whole(std::uint32_t end) noexcept;
  /// Neighbours that still have to take that bucket.
  std::uint32_t behind(std::uint32_t bucket) const noexcept;
  /// Who still has to take that bucket is in it no more. @return how many
  std::uint32_t put_out_behind(std::uint32_t bucket) noexcept;
  /// Who has not taken all that it wants has to ask anew.
  void close() noexcept;

 private:
  BucketBoard(std::string name, ShmObject object, ShmRegion region);

  const std::string name_;
  ShmObject object_;  ///< locked
  ShmRegion region_;
  BoardPage* const page_;
  std::uint32_t seats_ = 0;  ///< of the open flow
  const int owner_;          ///< pid: a child that was forked unlinks nothing
};

/// A neighbour's. Thread safety: one thread.
class BoardSeat {
 public:
  enum class State {
    kEarly,  ///< the leader has not opened that flow yet
    kOpen,
    kOver    ///< closed, this seat was put out, or the leader is gone: why() says which
  };

  /// @param name of a board on this host, from a peer: believed only as far as it is one of this user
  /// @param flow its `first` and `seats` are the leader's to say
  /// @return kInvalid for another name; kNotFound, kDenied; kMismatch for another format
  static Result<std::unique_ptr<BoardSeat>> open(const std::string& name, const BoardFlow& flow,
                                                 std::uint32_t seat);
  BoardSeat(const BoardSeat&) = delete;
  BoardSeat& operator=(const BoardSeat&) = delete;

  State look() noexcept;
  /// Once it was open.
  const BoardRing& ring() const noexcept { return ring_; }
  std::uint32_t first() const noexcept { return flow_.first; }
  /// Buckets below that one have come whole.
  std::uint32_t whole() const noexcept;
  /// That bucket's copy is over. @return whether it is good: false where the flow was over before
  bool take(std::uint32_t bucket) noexcept;
  /// Takes nothing more: the leader waits for it no longer.
  void leave() noexcept;
  const char* why() const noexcept { return why_; }

 private:
  BoardSeat(ShmObject object, ShmRegion region, const BoardFlow& flow, std::uint32_t seat);
  bool enter(std::uint64_t ticket) noexcept;
  bool is_past() const noexcept;
  bool is_mine() const noexcept;
  bool set(std::uint64_t taken) noexcept;

  ShmObject object_;
  ShmRegion region_;
  BoardPage* const page_;
  BoardFlow flow_;
  const std::uint32_t seat_;
  BoardRing ring_;
  std::uint64_t ticket_ = 0;  ///< of the flow, once it was open
  std::uint64_t word_ = 0;    ///< that this one left at its seat
  const char* why_ = "";
};

}  // namespace weightcast::staging
