#include "stream/transfer.hpp"

#include <poll.h>

#include <array>
#include <utility>

#include "protocol/pipeline.hpp"

namespace weightcast::stream {

Status move_buckets(transport::Lane& lane, const std::shared_ptr<transport::Segment>& segment,
                    std::vector<transport::Bucket> buckets, std::uint32_t credit,
                    const std::function<bool()>& cancelled) {
  constexpr int kLookMs = 50;  // how late a cancellation is seen where nothing completes
  protocol::Pipeline pipeline(buckets.size(), credit);
  std::array<transport::Completion, 64> completions;
  while (!pipeline.ended()) {
    if (cancelled()) pipeline.cancel();
    while (const auto index = pipeline.next()) {
      buckets[*index].id = *index;
      Status status = lane.submit(segment, std::move(buckets[*index]));
      if (!status) pipeline.completed(*index, std::move(status));
    }
    const std::size_t count = lane.poll(completions);
    for (std::size_t i = 0; i < count; ++i) {
      pipeline.completed(completions[i].id, std::move(completions[i].status));
    }
    if (count == 0 && !pipeline.ended()) {
      pollfd waiting{lane.event_fd(), POLLIN, 0};
      ::poll(&waiting, 1, kLookMs);
    }
  }
  return pipeline.status();
}

}  // namespace weightcast::stream
