// NCCL between ranks of one process, for tests of everything that uses it: bytes move on the streams
// of a FakeCuda when all ranks of a communicator have come to the matching call; what would hang or
// be undefined hangs and is told; errors come where the test wants them; and all that is held is
// counted.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "driver/nccl.hpp"
#include "support/fake_cuda.hpp"

namespace weightcast::driver {

struct FakeNcclOptions {
  int version = 22809;
  int init_polls = 1;  ///< times that state() says kUnderWay once all ranks are in
  int call_polls = 0;  ///< and after each call that moves bytes
  int error_polls = 2;  ///< calls of state() until a rank hears that another is gone; -1: it never does
};

/// What is held; all zero when nothing is leaked.
struct FakeNcclCounts {
  std::size_t communicators = 0;
  std::size_t memory = 0;
  std::size_t registrations = 0;
  std::size_t unused_ids = 0;
  bool operator==(const FakeNcclCounts&) const = default;
};

/// Ranks are told apart by their devices. Strict: what NCCL would leave undefined, or hang at, is in
/// violations(). Calls go by the names of Nccl's functions. Thread safety: any thread.
class FakeNccl : public Nccl {
 public:
  explicit FakeNccl(std::shared_ptr<FakeCuda> cuda, FakeNcclOptions options = {});
  ~FakeNccl() override;

  // What tests steer.

  /// The nth call of that name from here on returns `status` and does nothing; state() spoils its
  /// communicator.
  void fail(std::string_view call, Status status, std::uint64_t nth = 1);
  /// The process of that device is gone, with all that it held; the others hear of it as configured.
  void die(int device);
  /// abort() blocks from here on, until it is let go.
  void hold_aborts();
  void release_aborts();

  // What tests look at.

  std::uint64_t calls(std::string_view call) const;
  FakeNcclCounts held() const;
  std::vector<std::string> violations() const;
  /// Communicators that a device is in now.
  std::size_t communicators_of(int device) const;
  /// Asked for by fail(), and not come up yet.
  std::size_t pending_failures() const;

  // Nccl.

  int version() const noexcept override { return options_.version; }
  Result<NcclUniqueId> unique_id() override;
  Result<NcclComm> init_rank(int device, const NcclUniqueId& id, int rank, int size,
                             const NcclCommOptions& options) override;
  Result<NcclProgress> state(NcclComm comm) override;
  Result<NcclProgress> finalize(NcclComm comm) override;
  Status destroy(NcclComm comm) override;
  Status abort(NcclComm comm) override;
  Status group_start() override;
  Result<NcclProgress> group_end() override;
  Result<NcclProgress> broadcast(NcclComm comm, const void* from, void* to, std::uint64_t bytes,
                                 int root, Stream stream) override;
  Result<NcclProgress> send(NcclComm comm, const void* from, std::uint64_t bytes, int peer,
                            Stream stream) override;
  Result<NcclProgress> receive(NcclComm comm, void* to, std::uint64_t bytes, int peer,
                               Stream stream) override;
  Result<void*> mem_alloc(int device, std::uint64_t bytes) override;
  void mem_free(int device, void* memory) noexcept override;
  Result<void*> register_memory(NcclComm comm, void* memory, std::uint64_t bytes) override;
  Status deregister_memory(NcclComm comm, void* handle) override;

 private:
  /// What a stream spins in: one call, or all of a group.
  struct Kernel {
    std::shared_ptr<fake::Marker> gate = std::make_shared<fake::Marker>();
    std::size_t open_parts = 0;
  };
  enum class Kind { kBroadcast, kSend, kReceive };
  struct Part {
    Kind kind = Kind::kBroadcast;
    const void* from = nullptr;
    void* to = nullptr;
    std::uint64_t bytes = 0;
    int peer = 0;  ///< or root
    bool has_begun = false;
    bool is_registered = false;  ///< its memory, in its communicator
    std::shared_ptr<Kernel> kernel{};
  };
  using Parts = std::map<int, std::shared_ptr<Part>>;  ///< by rank
  struct Members {  // of a communicator
    int size = 0;
    int max_ctas = 0;
    std::map<int, int> devices;  ///< by rank, of those who have joined
    bool is_broken = false;      ///< a rank is gone
    std::vector<Parts> broadcasts;
    std::map<std::pair<int, int>, std::vector<Parts>> pairs;  ///< by sender and receiver
  };
  struct Comm {
    std::shared_ptr<Members> members;
    int rank = 0;
    int device = 0;
    bool has_joined = false, is_finalized = false, is_over = false;
    int polls = 0;        ///< answers of kUnderWay that are left
    int broken_polls = 0;
    Status error;
    std::size_t broadcasts = 0;
    std::map<std::pair<int, int>, std::size_t> sent;
    std::map<std::pair<int, int>, std::size_t> received;
    std::vector<std::weak_ptr<Kernel>> kernels;
    std::map<void*, std::pair<std::byte*, std::uint64_t>> registrations;
  };
  struct Queued {  // a call, until its group ends
    NcclComm comm = nullptr;
    Stream stream = nullptr;
    std::shared_ptr<Part> part;
  };

  Status enter(std::string_view call);
  Status wrong(std::string what);
  /// The communicator, where calls may be made. Dead ones are no violation.
  Result<Comm*> usable(NcclComm comm, std::string_view call);
  Result<NcclProgress> issue(std::string_view call, NcclComm comm, Part part, Stream stream);
  Status launch(std::vector<Queued> calls);
  static bool is_registered(const Comm& comm, const void* memory, std::uint64_t bytes);
  void enlist(Comm& comm, const std::shared_ptr<Part>& part);
  void begin(Members& members, Parts& parts, int rank);
  void check_match(const Members& members, const Parts& parts);
  std::vector<std::shared_ptr<Kernel>> take_out(NcclComm comm);
  void open(const std::vector<std::shared_ptr<Kernel>>& kernels);

  const std::shared_ptr<FakeCuda> cuda_;
  const FakeNcclOptions options_;
  mutable std::mutex mutex_;  ///< never held while the FakeCuda is called
  std::condition_variable changed_;
  std::map<NcclComm, Comm> comms_;
  std::map<NcclComm, int> gone_;  ///< those of dead processes, and their devices
  std::map<std::uint64_t, std::shared_ptr<Members>> ids_;
  std::map<void*, int> memory_;
  std::uint64_t next_id_ = 1;
  std::uintptr_t next_handle_ = 0x100;
  bool is_grouped_ = false;
  std::vector<Queued> group_;
  bool holds_aborts_ = false;
  std::map<std::string, std::uint64_t, std::less<>> calls_;
  struct Failure {
    std::string call;
    std::uint64_t at = 0;
    Status status;
  };
  std::vector<Failure> failures_;
  std::vector<std::string> violations_;
};

}  // namespace weightcast::driver
