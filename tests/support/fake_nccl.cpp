#include "support/fake_nccl.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace weightcast::driver {
namespace {

using Lock = std::unique_lock<std::mutex>;

std::uint64_t number_of(const NcclUniqueId& id) {
  std::uint64_t number = 0;
  std::memcpy(&number, id.bytes.data(), sizeof number);
  return number;
}

}  // namespace

FakeNccl::FakeNccl(std::shared_ptr<FakeCuda> cuda, FakeNcclOptions options)
    : cuda_(std::move(cuda)), options_(options) {}

FakeNccl::~FakeNccl() = default;

void FakeNccl::fail(std::string_view call, Status status, std::uint64_t nth) {
  const Lock lock(mutex_);
  failures_.push_back({std::string(call), calls_[std::string(call)] + nth, std::move(status)});
}

void FakeNccl::die(int device) {
  std::vector<std::shared_ptr<Kernel>> kernels;
  {
    const Lock lock(mutex_);
    std::vector<NcclComm> theirs;
    for (const auto& [handle, comm] : comms_) {
      if (comm.device == device) theirs.push_back(handle);
    }
    for (NcclComm handle : theirs) {
      comms_.at(handle).members->is_broken = true;
      gone_[handle] = device;
      for (auto& kernel : take_out(handle)) kernels.push_back(std::move(kernel));
    }
  }
  open(kernels);
}

void FakeNccl::hold_aborts() {
  const Lock lock(mutex_);
  holds_aborts_ = true;
}

void FakeNccl::release_aborts() {
  const Lock lock(mutex_);
  holds_aborts_ = false;
  changed_.notify_all();
}

std::uint64_t FakeNccl::calls(std::string_view call) const {
  const Lock lock(mutex_);
  const auto it = calls_.find(call);
  return it == calls_.end() ? 0 : it->second;
}

FakeNcclCounts FakeNccl::held() const {
  const Lock lock(mutex_);
  FakeNcclCounts counts{.communicators = comms_.size(), .memory = memory_.size()};
  for (const auto& [handle, comm] : comms_) counts.registrations += comm.registrations.size();
  for (const auto& [id, members] : ids_) counts.unused_ids += members->size == 0 ? 1 : 0;
  return counts;
}

std::vector<std::string> FakeNccl::violations() const {
  const Lock lock(mutex_);
  return violations_;
}

std::size_t FakeNccl::pending_failures() const {
  const Lock lock(mutex_);
  return failures_.size();
}

std::size_t FakeNccl::communicators_of(int device) const {
  const Lock lock(mutex_);
  return static_cast<std::size_t>(std::count_if(
      comms_.begin(), comms_.end(), [&](const auto& it) { return it.second.device == device; }));
}

Status FakeNccl::enter(std::string_view call) {
  const std::uint64_t count = ++calls_[std::string(call)];
  const auto it = std::find_if(failures_.begin(), failures_.end(), [&](const Failure& failure) {
    return failure.call == call && failure.at == count;
  });
  if (it == failures_.end()) return {};
  Status status = std::move(it->status);
  failures_.erase(it);
  return status;
}

Status FakeNccl::wrong(std::string what) {
  violations_.push_back(what);
  return {Code::kInvalid, "ncclInvalidUsage: " + what};
}

Result<FakeNccl::Comm*> FakeNccl::usable(NcclComm comm, std::string_view call) {
  if (gone_.contains(comm)) return Status(Code::kUnavailable, "the process of this rank is gone");
  const auto it = comms_.find(comm);
  if (it == comms_.end()) return wrong(std::string(call) + " of no communicator, or one that ended");
  Comm& found = it->second;
  if (!found.error) return wrong(std::string(call) + " after an error: only abort is left");
  if (!found.has_joined) return wrong(std::string(call) + " before all ranks are in");
  if (found.polls > 0) return wrong(std::string(call) + " while another call is under way");
  if (found.is_finalized) return wrong(std::string(call) + " after finalize");
  return &found;
}

Result<NcclUniqueId> FakeNccl::unique_id() {
  const Lock lock(mutex_);
  if (Status s = enter("unique_id"); !s) return s;
  NcclUniqueId id;
  std::memcpy(id.bytes.data(), &next_id_, sizeof next_id_);
  ids_[next_id_++] = std::make_shared<Members>();
  return id;
}

Result<NcclComm> FakeNccl::init_rank(int device, const NcclUniqueId& id, int rank, int size,
                                     const NcclCommOptions& how) {
  const Lock lock(mutex_);
  if (Status s = enter("init_rank"); !s) return s;
  const auto it = ids_.find(number_of(id));
  if (it == ids_.end()) return wrong("init_rank by an id that nobody made");
  Members& members = *it->second;
  if (rank < 0 || rank >= size || (members.size != 0 && members.size != size)) {
    return wrong("rank " + std::to_string(rank) + " of " + std::to_string(size) + ", others say " +
                 std::to_string(members.size));
  }
  if (members.size != 0 && members.max_ctas != how.max_ctas) {
    return wrong("max_ctas " + std::to_string(how.max_ctas) + ", others say " +
                 std::to_string(members.max_ctas));
  }
  members.size = size;
  members.max_ctas = how.max_ctas;
  if (members.devices.contains(rank)) return wrong("a rank that joined twice");
  const auto handle = reinterpret_cast<NcclComm>(next_handle_);  // NOLINT: an opaque number
  next_handle_ += 16;
  Comm& comm = comms_[handle];
  comm.members = it->second;
  comm.rank = rank;
  comm.device = device;
  comm.polls = options_.init_polls;
  for (const auto& [other, its_device] : members.devices) {
    if (its_device == device) {
      comm.error = Status(Code::kInvalid, "ncclInvalidUsage: duplicate GPU, rank " +
                                              std::to_string(other) + " is on it, too");
      members.is_broken = true;
    }
  }
  members.devices[rank] = device;
  return handle;
}

Result<NcclProgress> FakeNccl::state(NcclComm handle) {
  const Lock lock(mutex_);
  Status injected = enter("state");
  if (gone_.contains(handle)) return Status(Code::kUnavailable, "the process of this rank is gone");
  const auto it = comms_.find(handle);
  if (it == comms_.end()) return wrong("state of no communicator, or one that ended");
  Comm& comm = it->second;
  if (!injected) {
    comm.error = injected;
    comm.members->is_broken = true;
  }
  if (!comm.error) return comm.error;
  if (comm.members->is_broken && options_.error_polls >= 0 &&
      comm.broken_polls++ >= options_.error_polls) {
    comm.error = Status(Code::kUnavailable, "ncclRemoteError: a rank is gone");
    return comm.error;
  }
  if (!comm.has_joined) {
    if (comm.members->devices.size() < static_cast<std::size_t>(comm.members->size)) {
      return NcclProgress::kUnderWay;
    }
    if (comm.polls > 0 && comm.polls-- > 0) return NcclProgress::kUnderWay;
    comm.has_joined = true;
    return NcclProgress::kOver;
  }
  if (comm.polls > 0 && comm.polls-- > 0) return NcclProgress::kUnderWay;
  if (comm.is_finalized) {
    const bool runs = std::any_of(comm.kernels.begin(), comm.kernels.end(), [](const auto& weak) {
      const auto kernel = weak.lock();
      return kernel != nullptr && kernel->open_parts > 0;
    });
    comm.is_over = !runs;
    return runs ? NcclProgress::kUnderWay : NcclProgress::kOver;
  }
  return NcclProgress::kOver;
}

Result<NcclProgress> FakeNccl::finalize(NcclComm handle) {
  const Lock lock(mutex_);
  if (Status s = enter("finalize"); !s) return s;
  auto comm = usable(handle, "finalize");
  if (!comm) return comm.status();
  (*comm)->is_finalized = true;
  (*comm)->polls = options_.call_polls;
  return NcclProgress::kUnderWay;
}

Status FakeNccl::destroy(NcclComm handle) {
  const Lock lock(mutex_);
  if (Status s = enter("destroy"); !s) return s;
  if (gone_.contains(handle)) return {};
  const auto it = comms_.find(handle);
  if (it == comms_.end()) return wrong("destroy of no communicator, or one that ended");
  if (!it->second.error) return wrong("destroy after an error: only abort is left");
  if (!it->second.is_over) return wrong("destroy before finalize was over");
  comms_.erase(it);
  return {};
}

Status FakeNccl::abort(NcclComm handle) {
  Status result;
  std::vector<std::shared_ptr<Kernel>> kernels;
  {
    Lock lock(mutex_);
    result = enter("abort");
    changed_.wait(lock, [&] { return !holds_aborts_; });
    if (gone_.contains(handle)) return {};
    const auto it = comms_.find(handle);
    if (it == comms_.end()) return wrong("abort of no communicator, or one that ended");
    it->second.members->is_broken = true;
    kernels = take_out(handle);
  }
  open(kernels);
  return result;
}

std::vector<std::shared_ptr<FakeNccl::Kernel>> FakeNccl::take_out(NcclComm handle) {
  std::vector<std::shared_ptr<Kernel>> open;
  Comm& comm = comms_.at(handle);
  for (const auto& weak : comm.kernels) {
    if (auto kernel = weak.lock(); kernel != nullptr && kernel->open_parts > 0) {
      open.push_back(std::move(kernel));
    }
  }
  // Its parts match nobody's any more.
  for (Parts& parts : comm.members->broadcasts) parts.erase(comm.rank);
  for (auto& [pair, calls] : comm.members->pairs) {
    for (Parts& parts : calls) parts.erase(comm.rank);
  }
  comms_.erase(handle);
  return open;
}

void FakeNccl::open(const std::vector<std::shared_ptr<Kernel>>& kernels) {
  for (const auto& kernel : kernels) cuda_->open_gate(*kernel->gate);
}

Result<void*> FakeNccl::mem_alloc(int device, std::uint64_t bytes) {
  {
    const Lock lock(mutex_);
    if (Status s = enter("mem_alloc"); !s) return s;
  }
  auto memory = cuda_->allocate(device, bytes);
  if (!memory) return memory.status();
  const Lock lock(mutex_);
  memory_[*memory] = device;
  return *memory;
}

void FakeNccl::mem_free(int device, void* memory) noexcept {
  {
    const Lock lock(mutex_);
    (void)enter("mem_free");
    for (const auto& [handle, comm] : comms_) {
      for (const auto& [registration, registered] : comm.registrations) {
        if (registered.first == memory) (void)wrong("memory was freed that is registered");
      }
    }
    if (memory_.erase(memory) == 0) (void)wrong("mem_free of memory that is not NCCL's");
  }
  cuda_->free(device, memory);
}

Result<void*> FakeNccl::register_memory(NcclComm handle, void* memory, std::uint64_t bytes) {
  const Lock lock(mutex_);
  if (Status s = enter("register_memory"); !s) return s;
  auto comm = usable(handle, "register_memory");
  if (!comm) return comm.status();
  const auto registration = reinterpret_cast<void*>(next_handle_);  // NOLINT: an opaque number
  next_handle_ += 16;
  (*comm)->registrations[registration] = {static_cast<std::byte*>(memory), bytes};
  return registration;
}

Status FakeNccl::deregister_memory(NcclComm handle, void* registration) {
  const Lock lock(mutex_);
  if (Status s = enter("deregister_memory"); !s) return s;
  auto comm = usable(handle, "deregister_memory");
  if (!comm) return comm.status();
  if ((*comm)->registrations.erase(registration) == 0) return wrong("a handle of no registration");
  return {};
}

}  // namespace weightcast::driver
