// What the stager's thread asks of the subscriber it works for.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <weightcast/subscriber.hpp>

#include "subscriber/image.hpp"

namespace weightcast::subscriber {

/// By TransportChoice.
using TransportBytes =
    std::array<std::uint64_t, static_cast<std::size_t>(TransportChoice::kNccl) + 1>;

/// Something that the subscriber's machine and status have to know, in this order.
struct StageEvent {
  enum class Kind {
    kStaged,         ///< the end of StartStage, good or bad
    kSwitched,       ///< the good end of Switch
    kSwitchFailed,   ///< the bad one
    kDirty,          ///< there is nothing to serve from here on
    kClean,          ///< and now there is again
    kChosen,         ///< `activation` is in use from here on, for the reason `text`
    kBecomeInPlace,  ///< only serial fits: the job has to be joined as such; ends StartStage
    kSources         ///< the version comes over `text`
  };
  Kind kind = Kind::kStaged;
  std::uint64_t op = 0;
  Status status{};
  std::chrono::nanoseconds took{0};
  Activation activation = Activation::kView;
  std::string text{};
  std::string why{};  ///< kSources
  TransportBytes bytes{};  ///< kSources: how much of it comes over which
};

/// Called from the stager's thread.
class StagerHost {
 public:
  virtual ~StagerHost() = default;
  virtual void happened(StageEvent event) = 0;
  /// The image that leases get from now on; called after the applier's commit.
  virtual void serve(std::shared_ptr<Image> image) = 0;
  /// New leases wait until resume, withdraw and then serve; `why` is told at their deadlines. Once
  /// this has returned, every lease that will be given is in the book already.
  virtual void pause(std::string why) = 0;
  /// Leases go on: with `image` (which was withdrawn), or, where that is null, with what is served.
  virtual void resume(std::shared_ptr<Image> image) = 0;
  /// There is nothing to serve from here on, because of `why`. @return what was served; may be null
  virtual std::shared_ptr<Image> withdraw(std::string why) = 0;
};

}  // namespace weightcast::subscriber
