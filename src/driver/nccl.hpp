// NCCL behind a table of calls: one implementation makes them (loaded when the program runs, so that
// one binary serves machines with and without it), one is a fake that moves bytes between ranks of
// one process (tests/support/fake_nccl.hpp). Nothing else in the tree knows NCCL.
//
// All communicators are non-blocking: a call that reaches other ranks says kUnderWay and goes on
// behind the caller; state() tells when the next call may be made. A deadline is the caller's: what
// does not end is ended by abort().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <weightcast/status.hpp>

#include "driver/cuda.hpp"

namespace weightcast::driver {

/// What ncclComm_t is: opaque.
using NcclComm = void*;

/// Names a communicator that is to be, to all of its ranks.
struct NcclUniqueId {
  std::array<std::byte, 128> bytes{};
  bool operator==(const NcclUniqueId&) const = default;
};

/// How far a call has come that others take part in.
enum class NcclProgress { kOver, kUnderWay };

struct NcclCommOptions {
  int min_ctas = 0;  ///< blocks of a kernel, at least; 0: NCCL's choice
  int max_ctas = 0;  ///< at most: multiprocessors that a transfer takes from others; 0: NCCL's choice
  std::string network{};  ///< name of a network plugin ("Socket", "IB"); empty: NCCL's choice
};

/// Thread safety: any thread, but one at a time for each communicator, a group on one thread, and
/// nothing any more for a communicator that has been given to abort() or destroy().
/// Errors: kUnavailable where another rank or the network failed, kInvalid for arguments and uses
/// that NCCL refuses, kExhausted for memory, kInternal for the rest; the message has NCCL's own text.
/// After any error of a communicator abort() is all that is left for it, on every rank.
class Nccl {
 public:
  virtual ~Nccl() = default;

  /// As ncclGetVersion says it: 22809 is 2.28.9. The same on all ranks, or they do not meet.
  virtual int version() const noexcept = 0;

  /// Starts a thread that waits for the ranks, in this process: make one only when all are there.
  virtual Result<NcclUniqueId> unique_id() = 0;

  /// Begins to join. Does not wait; state() says when all ranks are in. Two ranks of a communicator
  /// on one device are refused.
  virtual Result<NcclComm> init_rank(int device, const NcclUniqueId& id, int rank, int size,
                                     const NcclCommOptions& options) = 0;
  /// Whether the last call is over, and an error that came up behind the callers. Does not wait.
  virtual Result<NcclProgress> state(NcclComm comm) = 0;

  /// Lets what is under way end, on all ranks; then comes destroy().
  virtual Result<NcclProgress> finalize(NcclComm comm) = 0;
  /// After a finalize() that is over.
  virtual Status destroy(NcclComm comm) = 0;
  /// Ends kernels that wait for others, whatever the peers do. Blocks: 0.9 to 1.7 s were measured.
  virtual Status abort(NcclComm comm) = 0;

  /// Calls between the two become one kernel: sends and receives that need each other.
  virtual Status group_start() = 0;
  virtual Result<NcclProgress> group_end() = 0;

  // Queue on a stream of the communicator's device, and spin on it until the peers' calls come.
  // All ranks issue the same calls in the same order.

  /// From `from` on the root (elsewhere not read) to `to` on every rank; the two may be equal.
  virtual Result<NcclProgress> broadcast(NcclComm comm, const void* from, void* to,
                                         std::uint64_t bytes, int root, Stream stream) = 0;
  virtual Result<NcclProgress> send(NcclComm comm, const void* from, std::uint64_t bytes, int peer,
                                    Stream stream) = 0;
  virtual Result<NcclProgress> receive(NcclComm comm, void* to, std::uint64_t bytes, int peer,
                                       Stream stream) = 0;

  /// Device memory that communicators can be given by register_memory().
  /// @return kUnavailable before NCCL 2.19: Cuda::allocate serves as well
  virtual Result<void*> mem_alloc(int device, std::uint64_t bytes) = 0;
  virtual void mem_free(int device, void* memory) noexcept = 0;
  /// Lets transfers go in and out of the memory without a copy: where all ranks of a call pass memory
  /// that is registered, or none does. Else what the call does is undefined.
  /// @return the handle; null where NCCL has none, as all before 2.19
  virtual Result<void*> register_memory(NcclComm comm, void* memory, std::uint64_t bytes) = 0;
  /// Not after abort(), which forgets them all.
  virtual Status deregister_memory(NcclComm comm, void* handle) = 0;
};

/// The oldest that is used: bounds on blocks and non-blocking communicators that keep their word.
inline constexpr int kOldestNccl = 21800;

/// The one of this machine, the same for all of the process; loaded at the first call: the file that
/// WEIGHTCAST_NCCL_LIBRARY names, else libnccl.so.2 (torch's own where it is in this process already).
/// @return kUnavailable that says what is missing
Result<std::shared_ptr<Nccl>> load_nccl();

/// Puts another in the place of what load_nccl() gives, for tests; null: the machine's again.
void set_nccl(std::shared_ptr<Nccl> nccl);

}  // namespace weightcast::driver
