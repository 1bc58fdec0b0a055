#include "contract/memory_transport.hpp"

#include "contract/transport_contract.hpp"
#include "contract/transport_endurance.hpp"
#include "contract/transport_strips.hpp"

namespace weightcast::transport {
namespace {

class MemoryHarness {
 public:
  static constexpr bool kAsksAPeer = false;
  Transport& transport() { return transport_; }

  std::optional<SegmentAddress> publish(std::uint32_t slot, std::uint64_t number,
                                        std::uint64_t bytes) {
    const Version version{{1700000000000000, 3}, number};
    const auto generation = board_->put(object(slot), version, bytes,
                                        [&](auto span) { test::fill_pattern(span, number); });
    if (generation == 0) return std::nullopt;
    return SegmentAddress{object(slot), version, generation, bytes};
  }

  bool can_overwrite(std::uint32_t slot) { return !board_->is_held(object(slot)); }

  void restart() {
    board_->clear();
    ++life_;
  }

 private:
  std::string object(std::uint32_t slot) const {
    return std::to_string(life_) + "/" + std::to_string(slot);
  }

  int life_ = 1;
  std::shared_ptr<MemoryBoard> board_ = std::make_shared<MemoryBoard>();
  MemoryTransport transport_{board_};
};

INSTANTIATE_TYPED_TEST_SUITE_P(Memory, TransportContract, MemoryHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Memory, TransportEndurance, MemoryHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Memory, TransportStrips, MemoryHarness);

}  // namespace
}  // namespace weightcast::transport
