// Step hooks for libtorch's optimizers, which have none of their own.
#pragma once

#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include <torch/optim/optimizer.h>

#include <weightcast/export.hpp>

namespace weightcast {
namespace detail {

/// What is told of an optimizer's steps.
class WEIGHTCAST_API StepListener {
 public:
  virtual ~StepListener() = default;
  virtual void before_step() noexcept = 0;               ///< parameters are about to be written
  virtual void after_step() noexcept = 0;                ///< the step is whole
  virtual void step_failed(const char* why) noexcept = 0;  ///< the step threw
};

/// The part of a hooked optimizer that listeners hang on. It does not own them: a listener goes by
/// being destroyed, whether the optimizer is gone by then or not.
///
/// Moving an optimizer takes its listeners along; assigning one to another leaves the target with
/// those of both, so that `optimizer = make_optimizer(...)` in mid-training stays attached.
///
/// Thread safety: none; everything happens on the trainer's thread.
class WEIGHTCAST_API HookPoint {
 public:
  HookPoint() = default;
  HookPoint(HookPoint&& other) noexcept : listeners_(std::move(other.listeners_)) { other.listeners_.clear(); }
  HookPoint& operator=(HookPoint&& other) {
    if (this != &other) {
      for (auto& listener : other.listeners_) listeners_.push_back(std::move(listener));
      other.listeners_.clear();
    }
    return *this;
  }
  virtual ~HookPoint() = default;

  void add_listener(const std::shared_ptr<StepListener>& listener) {
    std::erase_if(listeners_, [](const auto& l) { return l.expired(); });
    listeners_.push_back(listener);
  }

 protected:
  /// By index, because a listener may attach another one.
  template <class Call>
  void notify(const Call& call) noexcept {
    for (std::size_t i = 0; i < listeners_.size(); ++i) {
      if (const auto listener = listeners_[i].lock()) call(*listener);
    }
  }

 private:
  std::vector<std::weak_ptr<StepListener>> listeners_;
};

}  // namespace detail

/// An optimizer of type B whose steps weightcast hears of: write `Hooked<torch::optim::Adam>` where
/// you wrote `torch::optim::Adam`. Constructors, options, state, saving and loading are B's; it goes
/// wherever a `torch::optim::Optimizer&` goes.
///
/// step() first waits, at most PublisherOptions::stall, for copies of the last publish point that
/// still read the parameters, and after B's step makes the publish point if one is due. What B's
/// step throws passes through, after the point has been declared void. Hooks never throw.
template <class B>
class Hooked : public B, public detail::HookPoint {
 public:
  using B::B;
  using LossClosure = torch::optim::Optimizer::LossClosure;

  torch::Tensor step(LossClosure closure = nullptr) override {
    notify([](detail::StepListener& l) { l.before_step(); });
    torch::Tensor loss;
    try {
      loss = B::step(std::move(closure));
    } catch (const std::exception& e) {
      notify([&](detail::StepListener& l) { l.step_failed(e.what()); });
      throw;
    } catch (...) {
      notify([](detail::StepListener& l) { l.step_failed("it threw no std::exception"); });
      throw;
    }
    notify([](detail::StepListener& l) { l.after_step(); });
    return loss;
  }
};

}  // namespace weightcast
