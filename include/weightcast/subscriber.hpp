// The engine's side: versions come in, leases go out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <weightcast/export.hpp>
#include <weightcast/status.hpp>
#include <weightcast/types.hpp>

namespace weightcast {

/// How an engine takes a version in, from the freest to the tightest. kStaged and kSerial are in
/// place: all versions lie in the same memory, one after the other, and leases are drained between.
enum class Activation {
  kAuto,    ///< the first of the others that the transport and memory_budget allow
  kView,    ///< tensors are private mappings of the sealed, locked slots: nothing is copied; whole
            ///< tensors, on the trainer's host
  kFlip,    ///< a second copy in this process, then a switch: leases on both go on
  kStaged,  ///< a second copy, then a copy in place with leases drained: tensors never move
  kSerial   ///< no second copy: bytes come in place after the commit, with leases drained; until
            ///< they are whole there is nothing to serve
};

struct SubscriberOptions {
  std::string job = "default";    ///< as the trainer's
  std::string policy = "policy";  ///< as the trainer's
  std::string directory;          ///< as the trainer's
  std::string name;               ///< unique among the job's receivers; empty: "worker-<pid>-<n>"
  Activation activation = Activation::kAuto;
  std::uint64_t memory_budget = 0;  ///< bytes of this process's memory that versions may take (view:
                                    ///< none; flip and staged: two images; serial: one, and the
                                    ///< buckets under way); 0: what the machine and the cgroup have
                                    ///< available when the first one comes
  int device = -1;                  ///< the accelerator in whose memory versions shall lie, and which
                                    ///< memory_budget is about then; -1: host memory
  Layout layout;                    ///< what this engine wants of the policy; empty: all of it
  TransportChoice transport = TransportChoice::kAuto;
  std::uint64_t bucket_bytes = 0;   ///< bytes that move as one unit; 0: by the plan, which says why
  std::string coordinator;          ///< the trainer's "host:port", where it is on another host
  std::string advertise;            ///< address by which other hosts reach this one; empty: found out
  std::string keys;                 ///< as the trainer's
  bool relay = true;                ///< mode p2p over tcp: serve what is served here to those who join
  std::uint32_t copy_threads = 2;   ///< for all activations but view
  bool verify_view = false;        ///< view: also read and check every byte before STAGED

  std::uint64_t max_staleness = 0;  ///< acquire() refuses where the trainer has published a point
                                    ///< that is further ahead than this; 0: serve regardless
  bool serve_detached = true;       ///< serve on while the trainer is not heard
  Duration lease_deadline = std::chrono::seconds(60);  ///< a lease held longer makes this LAGGING

  Duration heartbeat = std::chrono::milliseconds(100);
  Duration member_timeout = std::chrono::seconds(2);  ///< silence after which it is detached

  std::string trace;  ///< file of this process's spans of work (docs/tracing.md); %p in it is the
                      ///< process id, %n this receiver's name; empty: none is written
  std::string metrics;  ///< where this process's metrics are served, a port or "address:port", or a
                        ///< file's path that ends in .prom, with %p and %n (docs/metrics.md);
                        ///< empty: neither
};

/// configure(base, {}) of <weightcast/config.hpp>.
WEIGHTCAST_API Result<SubscriberOptions> with_environment(SubscriberOptions base);

/// A tensor of a version in this process's memory, contiguous, aligned to 64 bytes.
struct PlacedTensor {
  TensorInfo info;
  void* data = nullptr;  ///< writes stay private to this process, and spoil the version for its leases
  int device = -1;       ///< the accelerator whose memory `data` lies in; -1: host memory
};

/// One version, whole, in host memory or in a device's. Its bytes stay as they are while anybody holds it; holding
/// it longer than needed costs the trainer a slot (view), this engine its second copy (flip) or its
/// next version (in place).
/// Thread safety: immutable but for the attachment, which belongs to the applier.
class WEIGHTCAST_API PolicyImage {
 public:
  virtual ~PolicyImage() = default;
  virtual const Version& version() const noexcept = 0;
  virtual const std::vector<PlacedTensor>& tensors() const noexcept = 0;

  /// By name or alias; null if there is none.
  virtual const PlacedTensor* find(std::string_view name) const noexcept = 0;

  /// What the applier made of this image (a replica, say); leases lead to it. Set in place().
  std::shared_ptr<void> attachment;
};

/// How an engine of any kind takes versions in. Called from one thread of the Subscriber, never
/// concurrently. What it throws counts as a failure with what() as the message.
///
/// begin -> place -> commit is the good way; rollback may follow begin or place.
///
/// In place (Activation::kStaged, kSerial) begin comes before anything, then, once no lease is out,
/// suspend for what was served so far; then the bytes change, and place and commit follow at once.
/// While nothing is served because a place() failed, begin and place come again.
class WEIGHTCAST_API Applier {
 public:
  virtual ~Applier() = default;

  /// Looks at what the version has. A failure refuses it: its message reaches the trainer's log.
  virtual Status begin(const Version& version, const std::vector<TensorInfo>& tensors) = 0;

  /// Gets ready to serve from (or copies out of) the image, whose bytes are verified. What is
  /// served now must not change yet (in place there is nothing served, and no lease out). May keep
  /// the image.
  virtual Status place(const std::shared_ptr<PolicyImage>& image) = 0;

  /// Switches. Must succeed quickly: everything that can fail belongs into place().
  virtual void commit(const Version& version) noexcept = 0;

  /// Forgets what begin and place prepared.
  virtual void rollback(const Version& version) noexcept = 0;

  /// In place only: the bytes behind the version served so far are about to change, and no lease on
  /// it is out. Lets go of its image, which must not be used any more. Where the bytes stay after
  /// all, begin, place and commit follow with that same version.
  virtual void suspend(const Version& /*serving*/) noexcept {}

  /// Whether this engine needs tensors at the same addresses in every version of equal tensors (for
  /// captured graphs or registered memory): then view and flip are not eligible, staged and serial
  /// are. Asked once, when the Subscriber opens.
  virtual bool wants_fixed_addresses() const { return false; }

  /// Whether the memory behind what commit() replaced is free again: while it is not, the next
  /// version waits (until its attempt's deadline).
  virtual bool can_begin() noexcept { return true; }
};

/// A hold on one version while computing with it. Movable; lets go in its destructor.
/// Thread safety: as a shared_ptr: one thread per object, many objects per version.
class WEIGHTCAST_API Lease {
 public:
  Lease() noexcept = default;
  Lease(Lease&&) noexcept = default;
  Lease& operator=(Lease&&) noexcept;
  ~Lease();

  explicit operator bool() const noexcept { return image_ != nullptr; }
  const Version& version() const noexcept { return image_->version(); }
  const PolicyImage& image() const noexcept { return *image_; }
  void release() noexcept;
  /// As release(), where work queued on a stream of the device (native handle, cudaStream_t) still
  /// reads the version: its memory is not used again before that work is over. Without it, release()
  /// of a version on a device lets all work of that device end before its memory is used again.
  void release_after(void* stream) noexcept;

 private:
  friend class Subscriber;
  std::shared_ptr<PolicyImage> image_;
  std::shared_ptr<void> ticket_;
};

struct SubscriberStatus {
  Run run;                       ///< the newest run obeyed
  Version serving;               ///< what acquire() gives, or gave last while `dirty`
  Version published;             ///< newest that the trainer told of
  bool attached = false;         ///< in touch with the trainer
  Activation activation = Activation::kView;  ///< the one in use
  std::string activation_reason;
  std::uint64_t applied = 0;     ///< versions switched to
  std::uint64_t failed = 0;      ///< attempts that ended in a failure here
  std::string last_failure;      ///< the newest one's reason; empty after a success
  std::uint64_t rejoined = 0;    ///< times that it was refused as stale or lost touch, and joined again
  std::uint64_t dropped_messages = 0;
  std::uint32_t leases = 0;      ///< held now
  bool lagging = false;
  bool dirty = false;            ///< in place: there is none to serve until one has come whole
  std::string transport;         ///< of the last version: "shm", "tcp", "tcp from <engine>"
  std::string transport_reason;
  std::uint64_t received_bytes = 0;    ///< copied in, of all versions (view copies nothing)
  std::uint64_t resent_buckets = 0;    ///< asked for again after a lost connection
  std::uint64_t corrupt_buckets = 0;   ///< refused for their digest, and asked for again
  std::uint64_t relayed_bytes = 0;     ///< served from here to those who joined
  std::chrono::nanoseconds last_stage{0};  ///< from PREPARE to STAGED
};

/// Receives one policy's versions in an engine, and joins and rejoins the trainer by itself.
///
/// Thread safety: all calls from any thread. Ownership: outlives its leases or not, as it likes:
/// images live as long as their leases. The destructor leaves the job and joins its threads.
class WEIGHTCAST_API Subscriber {
 public:
  /// Starts; does not wait for a trainer.
  /// @param applier called for each version; null: leases show the image alone. Shared ownership.
  static Result<Subscriber> open(SubscriberOptions options, std::shared_ptr<Applier> applier = {});

  Subscriber(Subscriber&&) noexcept;
  Subscriber& operator=(Subscriber&&) noexcept;
  ~Subscriber();

  /// The newest version that may be served. Waits until there is one.
  /// @return kDeadline (the message says what is missing: no trainer, a refused version and why, or
  ///   a version that is coming in place);
  ///   kStale where max_staleness or serve_detached forbid serving
  Result<Lease> acquire(Deadline deadline);

  /// Waits until a version of number `number` or later (of the newest run) is served.
  Status wait_for(std::uint64_t number, Deadline deadline);

  /// Calls `callback` after each switch, before leases get the new version, on the Subscriber's
  /// thread. @return a token; the callback is removed when the token is destroyed
  [[nodiscard]] std::shared_ptr<void> after_apply(std::function<void(const Version&)> callback);

  SubscriberStatus status() const;
  const SubscriberOptions& options() const noexcept;

 private:
  class Impl;
  explicit Subscriber(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightcast
