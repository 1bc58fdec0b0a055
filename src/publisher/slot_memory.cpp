#include "publisher/slot_memory.hpp"

#include <algorithm>
#include <utility>

#include "base/log.hpp"
#include "publisher/capture.hpp"
#include "publisher/device_capture.hpp"
#include "publisher/device_plan.hpp"

namespace weightcast::publisher {
namespace {

/// Whether engines may ask for versions over tcp, which reads slots on the host.
bool serves_tcp(const PublisherOptions& options) {
  if (options.transport == TransportChoice::kTcp) return true;
  const bool others = !options.listen.empty() || !options.coordinator.empty();
  return options.transport == TransportChoice::kAuto && others;
}

/// Each tensor is where it is said to be: a kernel that reads elsewhere would end the trainer's CUDA.
Status check_places(driver::Cuda& cuda, const TensorList& list) {
  for (const TensorView& tensor : list.tensors) {
    if (tensor.device < 0 || tensor.data == nullptr) continue;
    const auto found = cuda.device_of(tensor.data);
    if (!found) return found.status();
    if (*found == tensor.device) continue;
    return {Code::kInvalid, "tensor '" + tensor.info.name + "' is listed on device " +
                                std::to_string(tensor.device) + ", but its memory is " +
                                (*found < 0 ? "the host's" : "of device " + std::to_string(*found))};
  }
  return Status::ok();
}

}  // namespace

Result<StagingChoice> choose_staging(const PublisherOptions& options, std::uint64_t total_bytes) {
  const std::string in_host_memory = serves_tcp(options) ? "tcp serves slots of host memory"
                                     : options.transport == TransportChoice::kShm
                                         ? "transport = shm reads slots of host memory"
                                         : "";
  const bool is_ipc = options.transport == TransportChoice::kCudaIpc;
  switch (options.staging) {
    case Staging::kDevice:
      if (in_host_memory.empty()) return StagingChoice{Staging::kDevice, false, "staging = device"};
      return Status(Code::kInvalid,
                    "options staging and transport do not go together: " + in_host_memory +
                        ", expected staging = host or auto, or transport = cuda_ipc or nccl");
    case Staging::kHost:
      if (!is_ipc) return StagingChoice{Staging::kHost, false, "staging = host"};
      return Status(Code::kInvalid,
                    "options staging and transport do not go together: cuda_ipc maps slots in the "
                    "device's memory, expected staging = device or auto");
    case Staging::kAuto:
      break;
  }
  const std::string needs = "slots take " + std::to_string(total_bytes) + " bytes, device_budget = " +
                            std::to_string(options.device_budget);
  if (is_ipc) return StagingChoice{Staging::kDevice, false, "transport = cuda_ipc"};
  if (!in_host_memory.empty()) return StagingChoice{Staging::kHost, false, in_host_memory};
  if (total_bytes > options.device_budget) return StagingChoice{Staging::kHost, false, needs};
  return StagingChoice{Staging::kDevice, true, needs};
}

Result<std::unique_ptr<SlotMemory>> SlotMemory::open(const PublisherOptions& options,
                                                     const staging::ObjectOwner& owner,
                                                     const TensorList& list) {
  staging::SlabOptions slab_options;
  slab_options.owner = owner;
  slab_options.slots = options.slots;
  slab_options.slot_bytes = options.slot_bytes;
  auto memory = std::make_unique<SlotMemory>();
  const auto device = device_of(list);
  if (!device) return device.status();
  if (*device < 0) {
    if (options.staging == Staging::kDevice) {
      return Status(Code::kInvalid,
                    "option staging = device, but the tensors are in host memory; move them to a "
                    "device, or leave staging at auto");
    }
    auto slab = staging::Slab::create(slab_options);
    if (!slab) return slab.status();
    memory->slab_ = std::move(*slab);
    return memory;
  }
  auto cuda = driver::load_cuda();
  if (!cuda) {
    return Status(cuda.status().code(), "the tensors are on device " + std::to_string(*device) +
                                            ", but CUDA cannot be used: " +
                                            cuda.status().message());
  }
  memory->cuda_ = std::move(*cuda);
  if (Status s = check_places(*memory->cuda_, list); !s) return s;
  if (Status s = memory->open_on(*device, options, slab_options); !s) return s;
  return memory;
}

Status SlotMemory::open_on(int device, const PublisherOptions& options,
                           staging::SlabOptions slab_options) {
  device_ = device;
  const std::uint64_t total =
      staging::DeviceSlab::total_bytes(options.slots, options.slot_bytes);
  auto choice = choose_staging(options, total);
  if (!choice) return choice.status();
  if (choice->staging == Staging::kDevice) {
    auto made = staging::DeviceSlab::create(cuda_, device, options.slots, options.slot_bytes);
    if (made) {
      device_slab_ = std::move(*made);
      slab_options.payload_in_slots = false;
    } else if (choice->may_fall_back && made.status().code() == Code::kExhausted) {
      choice->why = made.status().message();
    } else {
      return made.status();
    }
  }
  auto slab = staging::Slab::create(slab_options);
  if (!slab) return slab.status();
  slab_ = std::move(*slab);
  if (!device_slab_) {
    auto pinned = staging::PinnedSlots::pin(cuda_, *slab_);
    if (!pinned) return pinned.status();
    pinned_ = std::move(*pinned);
  }
  base::log(LogLevel::kInfo, "staging",
            {{"policy", options.policy},
             {"device", device},
             {"staging", device_slab_ ? "device" : "host"},
             {"bytes", total},
             {"why", choice->why}});
  return Status::ok();
}

std::span<std::byte> SlotMemory::payload(std::uint32_t slot) noexcept {
  return device_slab_ ? device_slab_->payload(slot) : slab_->payload(slot);
}

std::shared_ptr<const void> SlotMemory::holds() const {
  if (device_slab_) return device_slab_;
  return pinned_;
}

void SlotMemory::place(std::uint32_t slot, plan::Share& share) const {
  share.object = slab_->object_name(slot);
  if (!device_slab_) return;
  share.device = device_slab_->identity();
  share.device_memory = device_slab_->handle();
  share.device_offset = device_slab_->offset(slot);
}

Result<std::unique_ptr<Capturer>> SlotMemory::make_capturer(const PublisherOptions& options,
                                                            const CaptureRequest& first) {
  if (!cuda_) {
    CaptureOptions how;
    how.threads = options.copy_threads;
    how.inline_bytes = options.inline_bytes;
    return std::unique_ptr<Capturer>(std::make_unique<CapturePool>(how));
  }
  DeviceCaptureOptions how;
  how.cuda = cuda_;
  how.device = device_;
  how.payload_on_device = is_on_device();
  how.stall = options.stall;
  if (device_slab_) {
    how.holds = device_slab_;
  } else {
    how.holds = pinned_;
  }
  auto made = DeviceCapture::create(std::move(how), first);
  if (!made) return made.status();
  return std::unique_ptr<Capturer>(std::move(*made));
}

}  // namespace weightcast::publisher
