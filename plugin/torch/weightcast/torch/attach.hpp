// The trainer's side: binds an optimizer's steps to a policy's publish points.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include <cxxabi.h>
#include <torch/optim/optimizer.h>

#include <weightcast/config.hpp>
#include <weightcast/publisher.hpp>
#include <weightcast/status.hpp>
#include <weightcast/torch/dtype.hpp>
#include <weightcast/torch/hooked.hpp>
#include <weightcast/torch/tensor_list.hpp>
#include <weightcast/torch/tensor_source.hpp>

namespace weightcast {

/// What to publish and when. Every default works for one policy on one host; flags, the environment
/// and a file are applied over it (configure).
struct AttachOptions {
  std::string policy{};              ///< empty: publisher.policy
  std::string job{};                 ///< empty: publisher.job
  std::vector<std::string> include{};  ///< names to publish, as shell patterns; empty: all
  std::vector<std::string> exclude{};  ///< names not to publish; goes before `include`
  PublishedDType dtype{};            ///< floating tensors are cast to it; unset: publisher.dtype
  std::uint64_t every = 1;           ///< a publish point each so many steps; 0: only publish()
  ExtraTensors extra_tensors{};      ///< beside the source's; filtered like them
  PublisherOptions publisher{};      ///< everything else
  ConfigSources config{};            ///< flags and file; see take_flags
};

class Publication;

namespace detail {

inline std::string type_text(const std::type_info& type) {
  int error = 0;
  const std::unique_ptr<char, void (*)(void*)> name(
      abi::__cxa_demangle(type.name(), nullptr, nullptr, &error), std::free);
  return name ? name.get() : type.name();
}

inline Status detached() {
  return {Code::kUnavailable, "this publication is detached (or was moved from): attach again"};
}

/// A publication's inside: outlives moves of its handle; hooks reach it as long as it lives.
class PolicyBinding {
 public:
  PolicyBinding(NamedTensorLister source, AttachOptions options)
      : source_(std::move(source)),
        extra_(std::move(options.extra_tensors)),
        filter_{std::move(options.include), std::move(options.exclude)},
        every_(options.every) {
    PublisherOptions base = std::move(options.publisher);
    if (!options.policy.empty()) base.policy = std::move(options.policy);
    if (!options.job.empty()) base.job = std::move(options.job);
    if (options.dtype.value()) base.dtype = options.dtype.value();
    PublisherOptions whole = configure(std::move(base), options.config).value_or_throw();
    check_names();
    publisher_.emplace(Publisher::open(std::move(whole), lister()).value_or_throw());
  }

  PointResult publish() noexcept {
    dirty_ = false;
    PointResult result = publisher_->publish(lister());
    if (result.kind == PointResult::Kind::kCaptured) last_captured_ = result.point;
    return result;
  }
  void step_done() noexcept {
    if (due()) publish();
  }
  /// The step counts, so that the ranks' points stay aligned, but there is nothing to publish.
  void step_failed(const char* why) noexcept {
    if (!due()) return;
    try {
      publisher_->skip(std::string("the optimizer's step failed: ") + why);
    } catch (...) {
      publisher_->skip({});
    }
  }
  /// What is about to be written is no longer what the last point carries.
  Status fence() noexcept {
    dirty_ = true;
    return publisher_->fence();
  }
  Result<Verdict> flush(Deadline deadline) {
    if (dirty_) publish();
    Result<Verdict> verdict = publisher_->flush(deadline, lister());
    if (verdict) last_captured_ = std::max(last_captured_, verdict->version.number);
    return verdict;
  }
  void rebind(NamedTensorLister source) {
    std::swap(source_, source);
    try {
      check_names();
    } catch (...) {
      std::swap(source_, source);
      throw;
    }
  }
  Version version() const {
    if (last_captured_ == 0) return {};
    return {publisher_->status().run, last_captured_};
  }
  Publisher& publisher() noexcept { return *publisher_; }

 private:
  bool due() noexcept { return every_ != 0 && ++steps_ % every_ == 0; }

  std::vector<NamedTensor> named() const {
    std::vector<NamedTensor> tensors;
    source_(tensors);
    extra_.append(tensors);
    return tensors;
  }
  Publisher::Lister lister() const {
    return [this](TensorList& list) { return list_tensors(named(), filter_, list); };
  }
  void check_names() const {
    if (Status s = filter_.check(named()); !s) throw Error(s);
  }

  NamedTensorLister source_;
  ExtraTensors extra_;
  NameFilter filter_;
  std::uint64_t every_;
  std::uint64_t steps_ = 0;
  std::uint64_t last_captured_ = 0;
  bool dirty_ = false;  // fenced since the last point
  std::optional<Publisher> publisher_;
};

/// One optimizer of a publication. All of them fence; the last one's steps make publish points.
class OptimizerLink final : public StepListener {
 public:
  OptimizerLink(std::shared_ptr<PolicyBinding> binding, bool last) : binding_(std::move(binding)), last_(last) {}
  void before_step() noexcept override {
    // A fence that gives the point up has done what it is for; the core logs it.
    (void)binding_->fence();
  }
  void after_step() noexcept override {
    if (last_) binding_->step_done();
  }
  void step_failed(const char* why) noexcept override {
    if (last_) binding_->step_failed(why);
  }

 private:
  std::shared_ptr<PolicyBinding> binding_;
  bool last_;
};

Publication make_publication(const std::vector<torch::optim::Optimizer*>& optimizers,
                             NamedTensorLister source, AttachOptions options);

}  // namespace detail

/// A policy that is being published: the handle that attach() returns. Movable. Destroying it (or
/// detach()) takes the hooks off and leaves the job within a bounded time; the optimizers and the
/// module may be gone by then, or live on unhooked. Receivers go on serving what they have.
///
/// Thread safety: status() from any thread; all else on the trainer's thread.
class Publication {
 public:
  Publication() = default;
  Publication(Publication&&) noexcept = default;
  Publication& operator=(Publication&&) noexcept = default;
  ~Publication() = default;

  /// A publish point now, besides those of the steps. Every rank calls it equally often. Does not
  /// wait for receivers; see Publisher::publish.
  PointResult publish() noexcept {
    if (binding_) return binding_->publish();
    PointResult result;
    result.kind = PointResult::Kind::kVoid;
    result.why = "detached";
    return result;
  }

  /// A publish point with nothing to show, on this rank: call it where a step of this rank that the
  /// other ranks make is left out.
  void skip(std::string why) noexcept {
    if (binding_) binding_->publisher().skip(std::move(why));
  }

  /// Waits, at most PublisherOptions::stall, until the tensors may be written to. Hooked steps do it
  /// by themselves; call it before other writes to parameters (loading a checkpoint in place, say).
  Status fence() noexcept {
    if (!binding_) return {};
    return binding_->fence();
  }

  /// Makes a publish point if there was a step or a fence() since the last one or if that was not
  /// captured, and waits until every receiver serves it. Collective: every rank calls it, after as
  /// many steps and fences. @return as Publisher::flush
  Result<Verdict> flush(Deadline deadline) {
    if (!binding_) return detail::detached();
    return binding_->flush(deadline);
  }
  Result<Verdict> flush(Duration timeout) { return flush(Clock::now() + timeout); }

  /// The newest version captured by this rank; none before the first.
  Version version() const { return binding_ ? binding_->version() : Version{}; }

  /// Empty if detached.
  PublisherStatus status() const { return binding_ ? binding_->publisher().status() : PublisherStatus{}; }

  /// Publishes another source from now on, under the same policy (the module was rebuilt, say).
  /// @throw Error (kInvalid) as attach(); the former source stays
  template <class Source>
  void rebind(Source&& source) {
    if (!binding_) throw Error(detail::detached());
    binding_->rebind(make_lister(std::forward<Source>(source)));
  }

  void detach() noexcept {
    links_.clear();
    binding_.reset();
  }
  explicit operator bool() const noexcept { return binding_ != nullptr; }

 private:
  friend Publication detail::make_publication(const std::vector<torch::optim::Optimizer*>&,
                                              NamedTensorLister, AttachOptions);

  std::shared_ptr<detail::PolicyBinding> binding_;
  std::vector<std::shared_ptr<detail::StepListener>> links_;
};

namespace detail {

/// The hook point of an optimizer. @throw Error (kInvalid) that says what to write where it has none
inline HookPoint& hook_point_of(torch::optim::Optimizer* optimizer) {
  if (optimizer == nullptr) throw Error(Status(Code::kInvalid, "attach: an optimizer is null"));
  if (auto* point = dynamic_cast<HookPoint*>(optimizer)) return *point;
  const std::string type = type_text(typeid(*optimizer));
  throw Error(Status(Code::kInvalid,
                     "attach: this " + type + " has no step hook. Declare it as weightcast::Hooked<" + type +
                         "> (the constructor's arguments stay the same); or, where its type is not yours to "
                         "choose, call attach(source), publication.fence() before each step and "
                         "publication.publish() after it"));
}

inline Publication make_publication(const std::vector<torch::optim::Optimizer*>& optimizers,
                                    NamedTensorLister source, AttachOptions options) {
  std::vector<HookPoint*> points;
  for (auto* optimizer : optimizers) {
    HookPoint& point = hook_point_of(optimizer);
    if (std::find(points.begin(), points.end(), &point) != points.end()) {
      throw Error(Status(Code::kInvalid, "attach: an optimizer is in the list twice"));
    }
    points.push_back(&point);
  }
  Publication publication;
  publication.binding_ = std::make_shared<PolicyBinding>(std::move(source), std::move(options));
  for (HookPoint* point : points) {
    publication.links_.push_back(
        std::make_shared<OptimizerLink>(publication.binding_, point == points.back()));
    point->add_listener(publication.links_.back());
  }
  return publication;
}

}  // namespace detail

/// Publishes `source` (see make_lister) after the steps of several optimizers, e.g. of the policy's
/// parts: each of them waits for copies under way before it writes, and a step of the last one in
/// the list ends an iteration, of which every `options.every`-th is a publish point.
///
/// A step that throws counts, on the last optimizer, but publishes nothing: the ranks stay aligned.
/// @throw Error: kInvalid for an optimizer without hooks, for options or for tensors; as
///   Publisher::open for the rest. Each message says what to do
template <class Source>
[[nodiscard]] Publication attach(const std::vector<torch::optim::Optimizer*>& optimizers, Source&& source,
                                 AttachOptions options = {}) {
  if (optimizers.empty()) {
    throw Error(Status(Code::kInvalid, "attach: the list of optimizers is empty; without one, call attach(source)"));
  }
  return detail::make_publication(optimizers, make_lister(std::forward<Source>(source)), std::move(options));
}

/// Publishes `source` after every `options.every`-th step of `optimizer`. As above.
template <class Source>
[[nodiscard]] Publication attach(torch::optim::Optimizer& optimizer, Source&& source,
                                 AttachOptions options = {}) {
  return detail::make_publication({&optimizer}, make_lister(std::forward<Source>(source)), std::move(options));
}

/// Publishes `source` at calls of Publication::publish() alone; call Publication::fence() before
/// anything that writes to its parameters. @throw Error as above
template <class Source>
[[nodiscard]] Publication attach(Source&& source, AttachOptions options = {}) {
  static_assert(!std::is_base_of_v<torch::optim::Optimizer, std::remove_cvref_t<Source>>,
                "attach(optimizer, source): say what to publish, e.g. attach(optimizer, model)");
  return detail::make_publication({}, make_lister(std::forward<Source>(source)), std::move(options));
}

}  // namespace weightcast
