#include "stream/transfer.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "protocol/pipeline.hpp"

namespace weightcast::stream {
namespace {

/// One lane's part: its buckets in order, and how many of them are under way.
class LaneRun {
 public:
  struct Item {
    SegmentTransfer* transfer = nullptr;
    std::size_t bucket = 0;
  };

  LaneRun(transport::Lane& lane, std::vector<Item> items, std::uint32_t credit)
      : lane_(lane), items_(std::move(items)), pipeline_(items_.size(), credit) {
    for (const Item& item : items_) awaits_peer_ = awaits_peer_ || item.transfer->awaits_peer;
  }

  void submit_what_fits() {
    while (const auto index = pipeline_.next()) {
      const Item& item = items_[*index];
      transport::Bucket& bucket = item.transfer->buckets[item.bucket];
      bucket.id = *index;
      Status status = lane_.submit(item.transfer->segment, std::move(bucket));
      if (!status) pipeline_.completed(*index, std::move(status));
    }
  }

  /// @return how many completions there were
  std::size_t take(std::span<transport::Completion> room) {
    const std::size_t count = lane_.poll(room);
    for (std::size_t i = 0; i < count; ++i) {
      pipeline_.completed(room[i].id, std::move(room[i].status));
    }
    return count;
  }

  void give_up() {
    if (!pipeline_.status()) return;
    pipeline_.cancel();
    if (awaits_peer_ && !pipeline_.ended()) lane_.abort();
  }
  bool ended() const noexcept { return pipeline_.ended(); }
  const Status& status() const noexcept { return pipeline_.status(); }
  int event_fd() const noexcept { return lane_.event_fd(); }

 private:
  transport::Lane& lane_;
  std::vector<Item> items_;
  protocol::Pipeline pipeline_;
  bool awaits_peer_ = false;
};

std::vector<LaneRun> by_lane(std::vector<SegmentTransfer>& transfers, std::uint32_t credit) {
  std::vector<transport::Lane*> lanes;
  std::vector<std::vector<LaneRun::Item>> items;
  for (SegmentTransfer& transfer : transfers) {
    const auto at = std::find(lanes.begin(), lanes.end(), transfer.lane) - lanes.begin();
    if (static_cast<std::size_t>(at) == lanes.size()) {
      lanes.push_back(transfer.lane);
      items.emplace_back();
    }
    for (std::size_t i = 0; i < transfer.buckets.size(); ++i) {
      items[static_cast<std::size_t>(at)].push_back({&transfer, i});
    }
  }
  std::vector<LaneRun> runs;
  runs.reserve(lanes.size());
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    runs.emplace_back(*lanes[i], std::move(items[i]), credit);
  }
  return runs;
}

void wait_for_any(const std::vector<LaneRun>& runs) {
  constexpr int kLookMs = 50;  // how late a cancellation is seen where nothing completes
  std::vector<pollfd> waiting;
  waiting.reserve(runs.size());
  for (const LaneRun& run : runs) {
    if (!run.ended()) waiting.push_back({run.event_fd(), POLLIN, 0});
  }
  ::poll(waiting.data(), waiting.size(), kLookMs);
}

}  // namespace

Status move_buckets(std::vector<SegmentTransfer> transfers, std::uint32_t credit,
                    const std::function<bool()>& cancelled) {
  std::vector<LaneRun> runs = by_lane(transfers, credit);
  std::array<transport::Completion, 64> completions;
  Status first;
  const auto all_ended = [&] {
    return std::all_of(runs.begin(), runs.end(), [](const LaneRun& run) { return run.ended(); });
  };
  while (!all_ended()) {
    if (first.is_ok() && cancelled()) {
      first = Status(Code::kCancelled, "the transfer was cancelled");
    }
    std::size_t count = 0;
    for (LaneRun& run : runs) {
      if (!first) run.give_up();  // one lane's failure ends the others' part
      run.submit_what_fits();
      count += run.take(completions);
      if (first.is_ok() && !run.status()) first = run.status();
    }
    if (count == 0 && !all_ended()) wait_for_any(runs);
  }
  return first;
}

}  // namespace weightcast::stream
