// The trainer's side: publish points, the fence before the next step, and the verdict on a version.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <weightcast/export.hpp>
#include <weightcast/status.hpp>
#include <weightcast/types.hpp>

namespace weightcast {

/// Where tensors of a device are captured to.
enum class Staging {
  kAuto,   ///< kDevice where the slots fit into device_budget, else kHost
  kHost,   ///< shared memory of the host, whence every transport can take them
  kDevice  ///< slots in the device's own memory: one copy there; for engines by cuda_ipc and nccl
};

/// Every default works for one job on one host.
struct PublisherOptions {
  std::string job = "default";     ///< names the trainer job: [A-Za-z0-9_-], 1 to 64 characters
  std::string policy = "policy";   ///< names the policy within the job; as above
  std::uint32_t rank = 0;          ///< of this process among the trainer's
  std::uint32_t world_size = 1;
  std::string launch;              ///< which launch of the job this rank belongs to; equal on all ranks
  std::string directory;           ///< the meeting place; empty: $XDG_RUNTIME_DIR/weightcast, else
                                   ///< /tmp/weightcast-<uid>; owner-only
  bool takeover = false;           ///< replace a living trainer of the same job and policy

  Mode mode = Mode::kBroadcast;
  TransportChoice transport = TransportChoice::kAuto;  ///< kAuto: shm, and tcp where hosts other
                                                       ///< than this one take part
  std::string listen;       ///< rank 0: "address:port" at which members of other hosts reach the
                            ///< coordinator, e.g. "0.0.0.0:29577"; empty: members of this host only.
                            ///< Other ranks of its host may have it too: it says that other hosts
                            ///< take part, which then are served over tcp
  std::string coordinator;  ///< ranks on other hosts than rank 0's: its "host:port"; empty: this host
  std::string advertise;    ///< address by which other hosts reach this one; empty: found out
  std::string keys;         ///< folder of keys (`weightcast keygen`), needed where other hosts take
                            ///< part; empty: on one host they make themselves
  std::uint32_t slots = 4;         ///< versions that this rank's shared memory has room for, 2 to 16
  std::uint64_t slot_bytes = 0;    ///< room in each; 0: this rank's share at open, an eighth and 1 MiB
  Staging staging = Staging::kAuto;   ///< of tensors on a device
  std::uint64_t device_budget = 0; ///< bytes of the device's memory that slots may take
  bool trusted_fabric = false;     ///< the links between the hosts carry weights unencrypted (nccl)
  std::optional<DType> dtype;      ///< floating tensors are cast to it when they are captured
  std::uint32_t copy_threads = 2;
  std::uint64_t inline_bytes = 16 * 1024;  ///< smaller tensors are copied by publish() itself

  Duration stall = std::chrono::milliseconds(100);  ///< longest wait in publish() or fence()
  std::uint64_t max_coalesced = ~std::uint64_t{0};  ///< points in a row that may be coalesced before
                                                    ///< publish() waits (up to `stall`) for a grant
  std::uint32_t compare_every = 64;  ///< versions between comparisons of the ranks; 0: never
  std::uint32_t min_receivers = 0;   ///< flush() fails below it
  std::uint32_t max_dirty = 0;       ///< receivers of activation `serial` that may be without a
                                     ///< policy at once; 0: half of them, at least one

  Duration heartbeat = std::chrono::milliseconds(100);
  Duration member_timeout = std::chrono::seconds(2);    ///< silence after which a member is evicted
  Duration attempt_timeout = std::chrono::seconds(10);  ///< for a version to be staged by a receiver,
                                                        ///< and again to be applied

  std::string trace;  ///< file of this process's spans of work (docs/tracing.md); %p in it is the
                      ///< process id, %n "rank-<rank>"; empty: none is written
  std::string metrics;  ///< where this process's metrics are served, a port or "address:port", or a
                        ///< file's path that ends in .prom, with %p and %n (docs/metrics.md);
                        ///< empty: neither
};

/// configure(base, {}) of <weightcast/config.hpp>: what the environment (WEIGHTCAST_*, the file that
/// WEIGHTCAST_CONFIG names, torchrun's variables) says goes over `base`.
WEIGHTCAST_API Result<PublisherOptions> with_environment(PublisherOptions base);

/// What became of a publish point.
struct PointResult {
  enum class Kind {
    kCaptured,   ///< the copy is under way; the version exists once every rank has sealed it
    kCoalesced,  ///< no grant for this point: the next granted one carries these weights too
    kVoid        ///< a grant stood, but could not be used; `why` says why
  };
  Kind kind = Kind::kCoalesced;
  std::uint64_t point = 0;  ///< this point's number, which is the version's if it is captured
  std::string why;          ///< empty where kCaptured
};

/// The coordinator's verdict on a version, the same on every rank.
struct Verdict {
  Version version;
  std::vector<std::string> applied;  ///< receivers that serve it (or a newer one)
  std::vector<std::string> lost;     ///< evicted, lagging or failed since the version was prepared
};

struct PublisherStatus {
  Run run;
  std::uint64_t next_point = 1;
  Version published;                 ///< newest sealed by every rank
  Version committed;                 ///< newest that receivers may serve
  std::uint64_t captured = 0;        ///< points captured by this rank
  std::uint64_t coalesced = 0;
  std::uint64_t voided = 0;          ///< captures given up (stall, missed, another rank's, ...)
  std::uint64_t refused_messages = 0;  ///< malformed or out of place, dropped; rank 0: and
                                       ///< connections without a key that is allowed
  std::string blocked;               ///< why there is no grant just now; empty if there is one
  std::string listening;             ///< rank 0 with option `listen`: "tcp://address:port" at which
                                     ///< members of other hosts reach it, with the port it chose
  bool connected = false;            ///< this rank is in touch with the coordinator
  std::uint64_t drifted = 0;         ///< comparisons in which the ranks' policies differed
  std::uint64_t sent_bytes = 0;      ///< over tcp by this rank
  std::chrono::nanoseconds last_capture{0};  ///< from the point to the end of its copies
  std::chrono::nanoseconds last_hook{0};     ///< that the last captured point took of the trainer's
                                             ///< thread, with listing the tensors
  std::chrono::nanoseconds last_fence{0};    ///< that the last fence() took of it
  std::uint64_t stream_waits = 0;            ///< captures for which fence() had the trainer's stream
                                             ///< wait, on a device
  std::chrono::nanoseconds last_stream_wait{0};  ///< of these the last, by the device's clock
  std::chrono::nanoseconds last_apply{0};    ///< rank 0: from the point to the last APPLIED
  struct Receiver {
    std::string name;
    Version serving;
    std::string state;  ///< "active", "joining", "lagging"
  };
  std::vector<Receiver> receivers;   ///< rank 0 only
};

/// Publishes one policy's versions from one rank of the trainer. Rank 0 also runs the coordinator,
/// on this object's own thread.
///
/// Thread safety: publish, skip, fence and flush belong to the trainer's thread (one at a time);
/// status may be called from any thread. Movable; moving does not disturb what is under way.
/// Ownership: the destructor leaves the job, gives up captures and joins its threads within a
/// bounded time; receivers go on serving what they have.
class WEIGHTCAST_API Publisher {
 public:
  /// Tells the tensors at this moment. It may fail or throw: then the point is void.
  using Lister = std::function<Status(TensorList&)>;

  /// Takes all memory, meets the other side and starts. `lister` is called once, for the sizes.
  /// Does not wait for other ranks or receivers.
  /// @return kExhausted or kDenied for shared memory, kExists where another trainer publishes this
  ///   policy, kInvalid for options or tensors; each message says what to do
  static Result<Publisher> open(PublisherOptions options, const Lister& lister);

  Publisher(Publisher&&) noexcept;
  Publisher& operator=(Publisher&&) noexcept;
  ~Publisher();

  /// A publish point. Every rank calls it equally often. Resolves the tensors (only if this point is
  /// granted), copies buffers and small tensors, starts the copies of the others and returns.
  /// Waits at most `stall`, and only where `max_coalesced` would be passed.
  PointResult publish(const Lister& lister) noexcept;

  /// A publish point at which this rank has nothing to show, because its step failed: the point is
  /// void on all ranks.
  void skip(std::string why) noexcept;

  /// Waits until the tensors may be written to again, at most `stall`; then the point is given up
  /// and training goes on. Call it before anything that writes to the tensors. Of tensors on a device
  /// it does not wait: it queues the wait on TensorList::stream of the last point, so what writes to
  /// them must be on that stream, or behind it; where that wait would outlast `stall`, by the rate
  /// measured, the point is given up.
  /// @return kDeadline where the point was given up
  Status fence() noexcept;

  /// Makes sure that the weights of the last publish point are published and waits for the verdict.
  /// Where that point was coalesced or void it is taken again, with the present weights, so call
  /// publish() before it if there was a step since. Collective: every rank calls it at the same step.
  /// @return kDeadline; kUnavailable where a receiver was lost or fewer than `min_receivers` applied
  Result<Verdict> flush(Deadline deadline, const Lister& lister);

  PublisherStatus status() const;
  const PublisherOptions& options() const noexcept;

 private:
  class Impl;
  explicit Publisher(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightcast
