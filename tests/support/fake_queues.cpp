#include "support/fake_queues.hpp"

#include <algorithm>

namespace weightcast::driver::fake {
namespace {

std::uintptr_t number(Stream stream) { return reinterpret_cast<std::uintptr_t>(stream); }

}  // namespace

Stream Queues::create(int device) {
  const std::uintptr_t id = next_;
  next_ += 16;
  queues_[{device, id}].device = device;
  return reinterpret_cast<Stream>(id);  // NOLINT(performance-no-int-to-ptr): an opaque number
}

bool Queues::destroy(int device, Stream stream) {
  if (stream == nullptr || !is_live(device, stream)) return false;
  at(device, stream).is_live = false;
  drop_ended();
  return true;
}

bool Queues::is_live(int device, Stream stream) const {
  if (stream == nullptr) return true;
  const auto it = queues_.find({device, number(stream)});
  return it != queues_.end() && it->second.is_live;
}

std::size_t Queues::live() const {
  return static_cast<std::size_t>(std::count_if(queues_.begin(), queues_.end(), [](const auto& it) {
    return it.first.second != 0 && it.second.is_live;
  }));
}

Queues::Queue& Queues::at(int device, Stream stream) {
  Queue& queue = queues_[{device, number(stream)}];
  queue.device = device;
  return queue;
}

void Queues::push(int device, Stream stream, Work work) {
  at(device, stream).works.push_back(std::move(work));
}

std::shared_ptr<Marker> Queues::mark(int device, Stream stream) {
  auto marker = std::make_shared<Marker>();
  push(device, stream, Work{"mark", nullptr, nullptr, marker});
  return marker;
}

std::vector<std::shared_ptr<Marker>> Queues::mark_all(int device) {
  std::vector<std::shared_ptr<Marker>> markers;
  for (auto& [key, queue] : queues_) {
    if (key.first != device || (queue.works.empty() && queue.status)) continue;
    markers.push_back(std::make_shared<Marker>());
    queue.works.push_back(Work{"mark", nullptr, nullptr, markers.back()});
  }
  return markers;
}

void Queues::hold(int device, Stream stream, bool held) { at(device, stream).is_held = held; }

std::optional<std::uint64_t> Queues::step(std::uint64_t piece_bytes, bool also_held) {
  std::vector<std::pair<int, std::uintptr_t>> ready;
  for (auto& [key, queue] : queues_) {
    if (queue.works.empty() || (queue.is_held && !also_held)) continue;
    const auto& waits_for = queue.works.front().waits_for;
    if (waits_for == nullptr || waits_for->over) ready.push_back(key);
  }
  if (ready.empty()) return std::nullopt;
  auto chosen = ready.front();
  if (is_random_) {
    chosen = ready[random_() % ready.size()];
  } else if (const auto it = std::upper_bound(ready.begin(), ready.end(), last_);
             it != ready.end()) {
    chosen = *it;
  }
  last_ = chosen;

  Queue& queue = queues_[chosen];
  Work& work = queue.works.front();
  if (work.waits_for != nullptr) queue.time_ns = std::max(queue.time_ns, work.waits_for->time_ns);
  std::uint64_t budget = piece_bytes;
  bool is_over = true;
  if (work.piece != nullptr && queue.status) {
    Result<bool> done = true;
    if (const auto it = failures_.find(queue.device); it != failures_.end()) {
      done = it->second;
      failures_.erase(it);
    } else {
      done = work.piece(budget);
    }
    // What follows a failure on a stream is not done, as after an error on a device.
    if (!done) queue.status = done.status();
    is_over = !done || *done;
  }
  const std::uint64_t bytes = piece_bytes - budget;
  queue.time_ns += static_cast<std::int64_t>(1e9 * static_cast<double>(bytes) /
                                             static_cast<double>(bytes_a_second_)) + 1;
  if (is_over) {
    if (work.marks != nullptr) {
      work.marks->over = true;
      work.marks->time_ns = queue.time_ns;
      work.marks->status = queue.status;
    }
    queue.works.pop_front();
    drop_ended();
  }
  return bytes;
}

std::size_t Queues::pending() const {
  std::size_t sum = 0;
  for (const auto& [key, queue] : queues_) sum += queue.works.size();
  return sum;
}

void Queues::drop_ended() {
  std::erase_if(queues_,
                [](const auto& it) { return !it.second.is_live && it.second.works.empty(); });
}

}  // namespace weightcast::driver::fake
