#include "support/fake_cuda.hpp"

#include <algorithm>
#include <utility>

namespace weightcast::driver {
namespace {

// How long synchronize() waits for a test that holds the work back.
constexpr std::chrono::seconds kPatience{30};

}  // namespace

FakeCuda::FakeCuda(FakeOptions options)
    : options_(std::move(options)),
      memory_(options_.devices, options_.device_bytes),
      queues_(options_.seed, options_.bytes_a_second),
      is_lost_(static_cast<std::size_t>(options_.devices), false) {
  if (options_.threaded) thread_ = std::thread([this] { work(); });
}

FakeCuda::~FakeCuda() {
  {
    const Lock lock(mutex_);
    is_ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void FakeCuda::work() {
  Lock lock(mutex_);
  auto next = std::chrono::steady_clock::now();
  while (!is_ending_) {
    const auto bytes = is_held_ ? std::nullopt : queues_.step(options_.piece_bytes);
    if (!bytes) {
      changed_.wait(lock);
      next = std::chrono::steady_clock::now();
      continue;
    }
    changed_.notify_all();
    next += std::chrono::nanoseconds(static_cast<std::int64_t>(
        1e9 * static_cast<double>(*bytes) / static_cast<double>(options_.bytes_a_second)));
    // Paced by what is behind, not by each piece, which may be far shorter than a wake-up.
    while (!is_ending_ && std::chrono::steady_clock::now() < next) changed_.wait_until(lock, next);
  }
}

// What tests steer.

void FakeCuda::hold() {
  const Lock lock(mutex_);
  is_held_ = true;
}

void FakeCuda::resume() {
  const Lock lock(mutex_);
  is_held_ = false;
  changed_.notify_all();
}

void FakeCuda::hold_stream(int device, Stream stream) {
  const Lock lock(mutex_);
  queues_.hold(device, stream, true);
}

void FakeCuda::resume_stream(int device, Stream stream) {
  const Lock lock(mutex_);
  queues_.hold(device, stream, false);
  changed_.notify_all();
}

bool FakeCuda::step() {
  const Lock lock(mutex_);
  const bool did = queues_.step(options_.piece_bytes).has_value();
  changed_.notify_all();
  return did;
}

void FakeCuda::run_all() {
  const Lock lock(mutex_);
  while (queues_.step(options_.piece_bytes)) {
  }
  changed_.notify_all();
}

void FakeCuda::enqueue(int device, Stream stream, std::function<void()> work) {
  const Lock lock(mutex_);
  queues_.push(device, stream, fake::Work{"of the test", nullptr,
                                          [work = std::move(work)](std::uint64_t&) -> Result<bool> {
                                            work();
                                            return true;
                                          },
                                          nullptr});
  changed_.notify_all();
}

void FakeCuda::fail(std::string_view call, Status status, std::uint64_t nth) {
  const Lock lock(mutex_);
  const auto it = calls_.find(call);
  const std::uint64_t so_far = it == calls_.end() ? 0 : it->second;
  failures_.push_back({std::string(call), so_far + nth, std::move(status)});
}

void FakeCuda::fail_work(int device, Status status) {
  const Lock lock(mutex_);
  queues_.fail_next_work(device, std::move(status));
}

void FakeCuda::lose(int device) {
  const Lock lock(mutex_);
  is_lost_.at(static_cast<std::size_t>(device)) = true;
}

void FakeCuda::set_device_bytes(int device, std::uint64_t bytes) {
  const Lock lock(mutex_);
  memory_.set_room(device, bytes);
}

// What tests look at.

std::uint64_t FakeCuda::calls(std::string_view call) const {
  const Lock lock(mutex_);
  const auto it = calls_.find(call);
  return it == calls_.end() ? 0 : it->second;
}

FakeCounts FakeCuda::held() const {
  const Lock lock(mutex_);
  return {.allocations = memory_.count(fake::Kind::kDevice),
          .host_allocations = memory_.count(fake::Kind::kPinned),
          .registered = memory_.count(fake::Kind::kRegistered),
          .opened = memory_.count(fake::Kind::kOpened),
          .streams = queues_.live(),
          .events = events_.size(),
          .digest_jobs = digest_jobs_};
}

std::size_t FakeCuda::pending() const {
  const Lock lock(mutex_);
  return queues_.pending();
}

std::uint64_t FakeCuda::pageable_copies() const {
  const Lock lock(mutex_);
  return pageable_copies_;
}

std::uint64_t FakeCuda::copied_bytes() const {
  const Lock lock(mutex_);
  return copied_bytes_;
}

std::vector<std::string> FakeCuda::violations() const {
  const Lock lock(mutex_);
  return violations_;
}

// Cuda.

Status FakeCuda::enter(std::string_view call, int device) {
  auto it = calls_.find(call);
  if (it == calls_.end()) it = calls_.emplace(std::string(call), 0).first;
  const std::uint64_t count = ++it->second;
  if (device < -1 || device >= options_.devices) {
    return wrong(std::string(call) + ": device " + std::to_string(device) + " of " +
                 std::to_string(options_.devices));
  }
  if (device >= 0 && is_lost_[static_cast<std::size_t>(device)]) {
    return {Code::kUnavailable, std::string(call) + ": cudaErrorDevicesUnavailable: device " +
                                    std::to_string(device) + " is lost"};
  }
  const auto failure = std::find_if(failures_.begin(), failures_.end(), [&](const Failure& f) {
    return f.call == call && f.at == count;
  });
  if (failure == failures_.end()) return {};
  Status status = std::move(failure->status);
  failures_.erase(failure);
  return status;
}

Status FakeCuda::wrong(std::string what) {
  violations_.push_back(what);
  return {Code::kInvalid, "cudaErrorInvalidValue: " + what};
}

Status FakeCuda::check_stream(int device, Stream stream) {
  if (queues_.is_live(device, stream)) return {};
  return wrong("a stream that is not one of device " + std::to_string(device) + ", or no more");
}

Result<FakeCuda::EventState*> FakeCuda::find_event(int device, Event event) {
  const auto it = events_.find(event);
  if (it != events_.end() && it->second.device == device) return &it->second;
  return wrong("an event that is not one of device " + std::to_string(device) + ", or no more");
}

Result<int> FakeCuda::device_count() {
  const Lock lock(mutex_);
  if (Status s = enter("device_count", -1); !s) return s;
  return options_.devices;
}

Result<DeviceProperties> FakeCuda::properties(int device) {
  const Lock lock(mutex_);
  if (Status s = enter("properties", device); !s) return s;
  return DeviceProperties{"fake device", options_.identity + std::to_string(device), 4,
                          options_.registers_read_only};
}

Result<DeviceMemory> FakeCuda::memory(int device) {
  const Lock lock(mutex_);
  if (Status s = enter("memory", device); !s) return s;
  return memory_.room(device);
}

Result<int> FakeCuda::device_of(const void* address) {
  const Lock lock(mutex_);
  if (Status s = enter("device_of", -1); !s) return s;
  const fake::Range* range = memory_.find(address);
  if (range != nullptr) return range->device;
  if (memory_.was_freed(address)) return wrong("device_of: its memory was freed");
  return -1;
}

Result<void*> FakeCuda::allocate(int device, std::uint64_t bytes) {
  const Lock lock(mutex_);
  if (Status s = enter("allocate", device); !s) return s;
  return memory_.allocate(device, bytes);
}

Result<void*> FakeCuda::allocate_host(std::uint64_t bytes) {
  const Lock lock(mutex_);
  if (Status s = enter("allocate_host", -1); !s) return s;
  return memory_.allocate_host(bytes);
}

Status FakeCuda::register_host(void* memory, std::uint64_t bytes) {
  const Lock lock(mutex_);
  if (Status s = enter("register_host", -1); !s) return s;
  return memory_.add_registered(memory, bytes);
}

void FakeCuda::remove(void* memory, fake::Kind kind, int device, std::uint64_t bytes) {
  if (memory == nullptr) return;
  if (std::string what = memory_.remove(memory, kind, device, bytes); !what.empty()) {
    violations_.push_back(std::move(what));
  }
}

void FakeCuda::free(int device, void* memory) noexcept {
  const Lock lock(mutex_);
  static_cast<void>(enter("free", device));
  remove(memory, fake::Kind::kDevice, device, 0);
}

void FakeCuda::free_host(void* memory) noexcept {
  const Lock lock(mutex_);
  static_cast<void>(enter("free_host", -1));
  remove(memory, fake::Kind::kPinned, -1, 0);
}

void FakeCuda::unregister_host(void* memory, std::uint64_t bytes) noexcept {
  const Lock lock(mutex_);
  static_cast<void>(enter("unregister_host", -1));
  remove(memory, fake::Kind::kRegistered, -1, bytes);
}

Result<IpcHandle> FakeCuda::export_memory(int device, void* memory) {
  const Lock lock(mutex_);
  if (Status s = enter("export_memory", device); !s) return s;
  return memory_.export_range(device, memory);
}

Result<void*> FakeCuda::open_memory(int device, const IpcHandle& handle) {
  const Lock lock(mutex_);
  if (Status s = enter("open_memory", device); !s) return s;
  return memory_.open(device, handle, options_.opens_own_memory, options_.are_peers);
}

void FakeCuda::close_memory(int device, void* memory) noexcept {
  const Lock lock(mutex_);
  static_cast<void>(enter("close_memory", device));
  remove(memory, fake::Kind::kOpened, device, 0);
}

Result<Stream> FakeCuda::create_stream(int device, bool /*urgent*/) {
  const Lock lock(mutex_);
  if (Status s = enter("create_stream", device); !s) return s;
  return queues_.create(device);
}

void FakeCuda::destroy_stream(int device, Stream stream) noexcept {
  const Lock lock(mutex_);
  static_cast<void>(enter("destroy_stream", device));
  if (!queues_.destroy(device, stream)) violations_.push_back("destroy_stream: no such stream");
}

Result<Event> FakeCuda::create_event(int device, bool timed) {
  const Lock lock(mutex_);
  if (Status s = enter("create_event", device); !s) return s;
  auto* event = reinterpret_cast<Event>(next_event_);  // NOLINT(performance-no-int-to-ptr)
  next_event_ += 16;
  events_[event] = {device, timed, nullptr};
  return event;
}

void FakeCuda::destroy_event(int device, Event event) noexcept {
  const Lock lock(mutex_);
  static_cast<void>(enter("destroy_event", device));
  if (find_event(device, event)) events_.erase(event);
}

Status FakeCuda::record(int device, Event event, Stream stream) {
  const Lock lock(mutex_);
  if (Status s = enter("record", device); !s) return s;
  if (Status s = check_stream(device, stream); !s) return s;
  const auto state = find_event(device, event);
  if (!state) return state.status();
  (*state)->marker = queues_.mark(device, stream);
  changed_.notify_all();
  return {};
}

Result<bool> FakeCuda::done(int device, Event event) {
  const Lock lock(mutex_);
  if (Status s = enter("done", device); !s) return s;
  const auto state = find_event(device, event);
  if (!state) return state.status();
  const auto marker = (*state)->marker;
  if (marker == nullptr) return true;
  if (!marker->over && !is_held_ && !options_.threaded) {
    static_cast<void>(queues_.step(options_.piece_bytes));
    changed_.notify_all();
  }
  if (!marker->over) return false;
  if (!marker->status) return marker->status;
  return true;
}

Status FakeCuda::wait(int device, Stream stream, Event event) {
  const Lock lock(mutex_);
  if (Status s = enter("wait", device); !s) return s;
  if (Status s = check_stream(device, stream); !s) return s;
  // An event of another device may be waited for.
  const auto it = events_.find(event);
  if (it == events_.end()) return wrong("wait: no such event");
  if (it->second.marker == nullptr) return {};
  queues_.push(device, stream, fake::Work{"wait", it->second.marker, nullptr, nullptr});
  changed_.notify_all();
  return {};
}

Status FakeCuda::wait_for(Lock& lock, const std::vector<std::shared_ptr<fake::Marker>>& markers) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  const auto all_over = [&] {
    return std::all_of(markers.begin(), markers.end(), [](const auto& m) { return m->over; });
  };
  changed_.notify_all();
  while (!all_over()) {
    if (!options_.threaded && !is_held_ && queues_.step(options_.piece_bytes)) continue;
    if (changed_.wait_until(lock, deadline) == std::cv_status::timeout && !all_over()) {
      return {Code::kDeadline, "work is held back by the test, and it did not let go within 30 s"};
    }
  }
  changed_.notify_all();
  for (const auto& marker : markers) {
    if (!marker->status) return marker->status;
  }
  return {};
}

Status FakeCuda::synchronize(int device) {
  Lock lock(mutex_);
  if (Status s = enter("synchronize", device); !s) return s;
  return wait_for(lock, queues_.mark_all(device));
}

Result<std::chrono::nanoseconds> FakeCuda::elapsed(int device, Event from, Event to) {
  const Lock lock(mutex_);
  if (Status s = enter("elapsed", device); !s) return s;
  std::int64_t times[2] = {0, 0};
  const Event both[2] = {from, to};
  for (int i = 0; i < 2; ++i) {
    const auto state = find_event(device, both[i]);
    if (!state) return state.status();
    const auto& marker = (*state)->marker;
    if (!(*state)->timed || marker == nullptr || !marker->over) {
      return wrong("elapsed: an event that is not timed, not recorded or not over");
    }
    times[i] = marker->time_ns;
  }
  return std::chrono::nanoseconds(times[1] - times[0]);
}

}  // namespace weightcast::driver
