// CUDA in host memory, for tests of everything that uses it: streams that run when the test says
// so or behind its back, copies that tear, errors where the test wants them, and a count of all
// that is still held.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "driver/cuda.hpp"
#include "support/fake_memory.hpp"
#include "support/fake_queues.hpp"

namespace weightcast::driver {

struct FakeOptions {
  int devices = 1;
  std::uint64_t device_bytes = std::uint64_t{1} << 30;  ///< of each; beyond it kExhausted
  /// Work is done by a thread at `bytes_a_second`; else a piece at each done() that has to answer
  /// no, all of it in synchronize(), and as step() and run_all() say.
  bool threaded = false;
  std::uint64_t bytes_a_second = std::uint64_t{8} << 30;  ///< of elapsed(), too
  std::uint64_t piece_bytes = 64 << 10;  ///< the most that is copied at once; a multiple of 8
  std::uint64_t seed = 0;    ///< of the order among streams that could go on; 0: in turns
  bool opens_own_memory = true;   ///< CUDA refuses handles of the same process
  bool are_peers = true;          ///< devices have access to one another's memory
  bool registers_read_only = true;
  std::string identity = "GPU-fake0000-0000-0000-0000-00000000000";  ///< then the device's number
};

/// What is held; all zero when nothing is leaked.
struct FakeCounts {
  std::size_t allocations = 0, host_allocations = 0, registered = 0, opened = 0;
  std::size_t streams = 0, events = 0, digest_jobs = 0;
  bool operator==(const FakeCounts&) const = default;
};

/// Device memory is host memory that a test may read and write. Strict where CUDA is undefined:
/// such things are in violations(), and the call or the work fails. Thread safety: any thread.
/// Calls go by the names of Cuda's functions; a digest job's start() by "digest".
class FakeCuda : public Cuda {
 public:
  explicit FakeCuda(FakeOptions options = {});
  ~FakeCuda() override;
  FakeCuda(const FakeCuda&) = delete;
  FakeCuda& operator=(const FakeCuda&) = delete;

  // What tests steer.

  /// Nothing goes on but by step() and run_all(), until resume(). synchronize() waits for that.
  void hold();
  void resume();
  /// The same for one stream, which step() and run_all() leave alone, too.
  void hold_stream(int device, Stream stream);
  void resume_stream(int device, Stream stream);
  /// Does a piece of some work. @return false where nothing can go on
  bool step();
  /// Does all work that can be done; what waits for a held stream stays.
  void run_all();
  /// Queues something of the test's own, as a trainer's kernel is.
  void enqueue(int device, Stream stream, std::function<void()> work);
  /// Queues a kernel that waits for others: `begun` is called when the stream comes to it, and it is
  /// over when `gate` is. Under the fake's lock: `begun` calls nothing of the fake but
  /// copy_in_kernel(), and may open gates itself.
  void spin(int device, Stream stream, std::function<void()> begun,
            std::shared_ptr<fake::Marker> gate);
  /// Opens a gate from outside of a kernel.
  void open_gate(fake::Marker& gate);
  /// What a kernel does to memory. Only from within `begun`.
  void copy_in_kernel(void* to, const void* from, std::uint64_t bytes);

  /// The nth call of that name from here on returns `status` and does nothing.
  void fail(std::string_view call, Status status, std::uint64_t nth = 1);
  /// The next work that would be done on the device fails, and so does all behind it in its stream:
  /// it comes out at done() and synchronize().
  void fail_work(int device, Status status);
  /// From here on every call that names the device returns kUnavailable.
  void lose(int device);
  void set_device_bytes(int device, std::uint64_t bytes);

  // What tests look at.

  std::uint64_t calls(std::string_view call) const;
  FakeCounts held() const;
  std::size_t pending() const;            ///< works that are not done
  std::uint64_t pageable_copies() const;  ///< items that made copy() wait
  std::uint64_t copied_bytes() const;
  /// Use after free, wrong handles, ranges that reach too far, freed memory that work still needs.
  std::vector<std::string> violations() const;

  // Cuda.

  Result<int> device_count() override;
  Result<DeviceProperties> properties(int device) override;
  Result<DeviceMemory> memory(int device) override;
  Result<int> device_of(const void* address) override;
  Result<void*> allocate(int device, std::uint64_t bytes) override;
  void free(int device, void* memory) noexcept override;
  Result<void*> allocate_host(std::uint64_t bytes) override;
  void free_host(void* memory) noexcept override;
  Status register_host(void* memory, std::uint64_t bytes) override;
  void unregister_host(void* memory, std::uint64_t bytes) noexcept override;
  Result<Stream> create_stream(int device, bool urgent) override;
  void destroy_stream(int device, Stream stream) noexcept override;
  Result<Event> create_event(int device, bool timed) override;
  void destroy_event(int device, Event event) noexcept override;
  Status record(int device, Event event, Stream stream) override;
  Result<bool> done(int device, Event event) override;
  Status wait(int device, Stream stream, Event event) override;
  Status synchronize(int device) override;
  Result<std::chrono::nanoseconds> elapsed(int device, Event from, Event to) override;
  Status copy(int device, std::span<const CopyItem> items, Stream stream) override;
  Status gather(int device, std::span<const GatherItem> items, Stream stream) override;
  Result<std::unique_ptr<DigestJob>> make_digests(int device, std::size_t max_parts,
                                                  std::size_t max_sums) override;
  Result<IpcHandle> export_memory(int device, void* memory) override;
  Result<void*> open_memory(int device, const IpcHandle& handle) override;
  void close_memory(int device, void* memory) noexcept override;

 private:
  class FakeDigests;
  struct EventState {
    int device = 0;
    bool timed = false;
    std::shared_ptr<fake::Marker> marker;  ///< of the last record
  };
  struct Failure {
    std::string call;
    std::uint64_t at = 0;  ///< the count of the call that fails
    Status status;
  };
  using Lock = std::unique_lock<std::mutex>;

  /// Counts a call and says whether it may go on. @param device -1: none is named
  Status enter(std::string_view call, int device);
  Status wrong(std::string what);
  Status check_stream(int device, Stream stream);
  Result<EventState*> find_event(int device, Event event);
  /// Of memory that a kernel touches: mapped, and not plain host memory.
  /// @param device that the kernel runs on; -1: not known
  Status check_kernel(const void* address, std::uint64_t bytes, int device);
  void remove(void* memory, fake::Kind kind, int device, std::uint64_t bytes);
  /// Work that touches memory, checked once more when it is done.
  void push(int device, Stream stream, std::string what,
            std::function<Result<bool>(std::uint64_t&)> piece,
            std::shared_ptr<fake::Marker> marks = nullptr);
  Status wait_for(Lock& lock, const std::vector<std::shared_ptr<fake::Marker>>& markers);
  void work();

  const FakeOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  fake::Memory memory_;
  fake::Queues queues_;
  std::map<Event, EventState> events_;
  std::uintptr_t next_event_ = 0x800001;
  std::map<std::string, std::uint64_t, std::less<>> calls_;
  std::vector<Failure> failures_;
  std::vector<bool> is_lost_;
  std::vector<std::string> violations_;
  std::size_t digest_jobs_ = 0;
  std::uint64_t pageable_copies_ = 0;
  std::uint64_t copied_bytes_ = 0;
  bool is_held_ = false;
  bool is_ending_ = false;
  std::thread thread_;
};

}  // namespace weightcast::driver
