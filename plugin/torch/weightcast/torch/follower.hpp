// The engine's side: a module that always holds the newest whole version while it is leased.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <weightcast/config.hpp>
#include <weightcast/status.hpp>
#include <weightcast/subscriber.hpp>
#include <weightcast/torch/device.hpp>
#include <weightcast/torch/replica_pool.hpp>
#include <weightcast/torch/tensor_source.hpp>

namespace weightcast {

/// What to follow and how. Every default works on one host; flags, the environment and a file are
/// applied over it (configure).
struct FollowerOptions {
  std::string policy{};              ///< empty: subscriber.policy
  std::string job{};                 ///< empty: subscriber.job
  std::string name{};                ///< empty: subscriber.name
  std::vector<std::string> include{};  ///< the replica's tensors that follow, as shell patterns; empty: all
  std::vector<std::string> exclude{};  ///< those that do not (they keep their values)
  Duration acquire_timeout = std::chrono::seconds(30);  ///< of acquire() without an argument
  SubscriberOptions subscriber{};    ///< everything else
  ConfigSources config{};            ///< flags and file; see take_flags
};

namespace detail {

template <class M>
struct ModuleOf {
  using type = M;
};
template <class M>
  requires requires { typename M::ContainedType; }  // torch::nn::ModuleHolder
struct ModuleOf<M> {
  using type = typename M::ContainedType;
};
template <class M>
  requires requires { typename M::element_type; }  // smart pointers
struct ModuleOf<M> {
  using type = typename M::element_type;
};
template <class M>
using ModuleOfT = typename ModuleOf<std::remove_cvref_t<M>>::type;

template <class M, class Made>
std::shared_ptr<M> to_shared(Made&& made) {
  if constexpr (std::is_convertible_v<Made&&, std::shared_ptr<M>>) {
    return std::forward<Made>(made);
  } else if constexpr (requires { made.ptr(); }) {
    return made.ptr();
  } else {
    return std::make_shared<M>(std::forward<Made>(made));
  }
}

}  // namespace detail

/// A hold on one version and the replica that has it. Movable; lets go in its destructor.
///
/// Tensors taken from the module are good while the lease lasts; a copy of a tensor handle that
/// outlives it keeps the version's memory (and is logged). What runs backward() must do so within
/// the lease. On a device, work that was queued before the release may still read the version, on the
/// stream that is current where the lease is let go; work of other streams has to be joined to that one
/// before. Thread safety: one thread per object; several leases may share a replica.
template <class M>
class FollowerLease {
 public:
  FollowerLease() noexcept = default;
  FollowerLease(FollowerLease&& other) noexcept
      : lease_(std::move(other.lease_)),
        pool_(std::move(other.pool_)),
        module_(std::move(other.module_)),
        index_(other.index_) {}
  FollowerLease& operator=(FollowerLease&& other) noexcept {
    if (this != &other) {
      release();
      lease_ = std::move(other.lease_);
      pool_ = std::move(other.pool_);
      module_ = std::move(other.module_);
      index_ = other.index_;
    }
    return *this;
  }
  ~FollowerLease() { release(); }

  explicit operator bool() const noexcept { return pool_ != nullptr; }
  M* operator->() const noexcept { return module_.get(); }
  M& operator*() const noexcept { return *module_; }
  const Version& version() const noexcept { return lease_.version(); }
  const PolicyImage& image() const noexcept { return lease_.image(); }

  /// Any tensor of the version by name, extra tensors included, over the version's memory.
  /// @throw Error (kNotFound)
  at::Tensor tensor(std::string_view name) const {
    at::Tensor t = pool_->tensor(index_, name);
    if (!t.defined()) {
      throw Error(Status(Code::kNotFound, "version " + to_string(version()) + " has no tensor '" + std::string(name) +
                                              "': publish it (the trainer's include or extra_tensors)"));
    }
    return t;
  }

  void release() noexcept {
    if (!pool_) return;
    pool_->release(index_);
    const int device = pool_->device();
    pool_.reset();
    module_.reset();
    release_lease(device);
  }

 private:
  template <class>
  friend class Follower;

  void release_lease(int device) noexcept {
    try {
      if (device >= 0) lease_.release_after(detail::current_stream(device));
    } catch (const std::exception&) {
      // Then its memory waits for all of the device's work, by what comes next.
    }
    lease_.release();
  }

  Lease lease_;
  std::shared_ptr<detail::ReplicaPool> pool_;
  std::shared_ptr<M> module_;
  std::size_t index_ = 0;
};

/// Follows a policy with replicas of a module of type M (a torch::nn::Module, its holder,
/// a torch::jit::Module or any type with named_parameters() and named_buffers()). Versions arrive by
/// themselves; each lease has one, whole.
///
/// Two replicas or more: one serves, the others take versions in. A version's memory becomes their
/// tensors' (nothing is copied with Activation::kView), so element types and shapes must be the
/// trainer's as published. The module's mode is yours: call eval() in the factory, as a training
/// BatchNorm would write to the version. Outside of leases a replica's tensors may be empty.
///
/// Replicas on a CUDA device (all on the same one) follow there: versions lie in that device's memory,
/// beside libtorch's own.
///
/// Movable. Thread safety: as Subscriber. Leases may outlive it.
template <class M>
class Follower {
 public:
  using Module = detail::ModuleOfT<M>;
  using LeaseType = FollowerLease<Module>;

  /// @param factory called twice; returns a new M, its holder or a shared_ptr to it
  /// @throw Error: kInvalid for the replicas or options; as Subscriber::open for the rest
  template <class Factory>
    requires std::is_invocable_v<Factory&>
  explicit Follower(Factory&& factory, FollowerOptions options = {})
      : Follower(make_two(factory), std::move(options)) {}

  /// @param replicas at least two, of their own memory. @throw Error as above
  template <class Made>
  explicit Follower(std::vector<Made> replicas, FollowerOptions options = {})
      : options_(std::move(options)), subscriber_(open(std::move(replicas))) {}

  Follower(Follower&&) noexcept = default;
  Follower& operator=(Follower&&) noexcept = default;

  /// The newest version that may be served; waits until there is one.
  /// @return as Subscriber::acquire
  Result<LeaseType> try_acquire(Deadline deadline) {
    for (;;) {
      Result<Lease> lease = subscriber_.acquire(deadline);
      if (!lease) return lease.status();
      if (const auto index = pool_->lease(lease->image())) {
        LeaseType out;
        out.index_ = *index;
        out.module_ = modules_[*index];
        out.pool_ = pool_;
        out.lease_ = std::move(*lease);
        return out;
      }
      // Replaced between the two lines above: the next one is there already.
      if (Clock::now() >= deadline) {
        return Status(Code::kDeadline, "versions changed faster than one could be leased: allow more time");
      }
    }
  }
  Result<LeaseType> try_acquire(Duration timeout) { return try_acquire(Clock::now() + timeout); }

  /// @throw Error what try_acquire returns
  LeaseType acquire(Deadline deadline) { return try_acquire(deadline).value_or_throw(); }
  LeaseType acquire(Duration timeout) { return acquire(Clock::now() + timeout); }
  LeaseType acquire() { return acquire(options_.acquire_timeout); }

  /// Waits until version `number` or later is served. @return as Subscriber::wait_for
  Status wait_for(std::uint64_t number, Deadline deadline) { return subscriber_.wait_for(number, deadline); }
  Status wait_for(std::uint64_t number, Duration timeout) { return wait_for(number, Clock::now() + timeout); }

  /// As Subscriber::after_apply. @return a token; the callback goes with it
  [[nodiscard]] std::shared_ptr<void> after_apply(std::function<void(const Version&)> callback) {
    return subscriber_.after_apply(std::move(callback));
  }

  SubscriberStatus status() const { return subscriber_.status(); }

 private:
  template <class Factory>
  static std::vector<std::shared_ptr<Module>> make_two(Factory& factory) {
    std::vector<std::shared_ptr<Module>> replicas;
    for (int i = 0; i < 2; ++i) replicas.push_back(detail::to_shared<Module>(factory()));
    return replicas;
  }

  template <class Made>
  Subscriber open(std::vector<Made> replicas) {
    if (replicas.size() < 2) {
      throw Error(Status(Code::kInvalid, "a Follower needs at least two replicas, got " +
                                             std::to_string(replicas.size()) +
                                             ": one serves while another takes the next version in"));
    }
    SubscriberOptions base = options_.subscriber;
    if (!options_.policy.empty()) base.policy = options_.policy;
    if (!options_.job.empty()) base.job = options_.job;
    if (!options_.name.empty()) base.name = options_.name;
    base = configure(std::move(base), options_.config).value_or_throw();
    pool_ = std::make_shared<detail::ReplicaPool>(base.policy, NameFilter{options_.include, options_.exclude});
    for (Made& replica : replicas) {
      modules_.push_back(detail::to_shared<Module>(std::move(replica)));
      pool_->add(make_lister(modules_.back()));
    }
    if (base.device >= 0 && base.device != pool_->device()) {
      throw Error(Status(Code::kInvalid, "device is " + std::to_string(base.device) + ", but the replicas are on " +
                                             detail::torch_device(pool_->device()).str() +
                                             ": expected them there, or no device set"));
    }
    base.device = pool_->device();
    pool_->ready();
    return Subscriber::open(std::move(base), pool_).value_or_throw();
  }

  FollowerOptions options_;
  std::vector<std::shared_ptr<Module>> modules_;
  std::shared_ptr<detail::ReplicaPool> pool_;
  Subscriber subscriber_;  // last: gone first, and with it all calls of the pool
};

template <class Factory>
  requires std::is_invocable_v<Factory&>
explicit Follower(Factory&&, FollowerOptions = {})
    -> Follower<detail::ModuleOfT<std::invoke_result_t<Factory&>>>;
template <class Made>
explicit Follower(std::vector<Made>, FollowerOptions = {}) -> Follower<detail::ModuleOfT<Made>>;

}  // namespace weightcast
