// Which ways bytes can take from and to this host.
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "base/host.hpp"
#include "base/unique_fd.hpp"
#include "doctor/findings.hpp"
#include "driver/cuda.hpp"
#include "driver/nccl.hpp"
#include "stream/place_leftovers.hpp"

namespace weightcast::doctor {
namespace {

bool wants(const Patient& patient, TransportChoice choice) {
  return (patient.trainer && patient.trainer->transport == choice) ||
         (patient.worker && patient.worker->transport == choice);
}

/// Whether rank 0 could listen there now. @return the error's number; 0: it could
int try_bind(const base::HostPort& at) {
  addrinfo wanted{};
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = AI_PASSIVE | AI_NUMERICHOST;
  addrinfo* found = nullptr;
  if (::getaddrinfo(at.host.c_str(), std::to_string(at.port).c_str(), &wanted, &found) != 0) {
    return EADDRNOTAVAIL;
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, ::freeaddrinfo);
  const base::UniqueFd fd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno;
  const int yes = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  return ::bind(fd.get(), found->ai_addr, found->ai_addrlen) == 0 ? 0 : errno;
}

void check_listen(const Patient& patient, Findings& out) {
  const PublisherOptions& trainer = *patient.trainer;
  const auto at = base::parse_host_port("listen", trainer.listen);
  if (!at) {
    out.refused("tcp", at.status(), "listen = 0.0.0.0:29577");
    return;
  }
  const int error = try_bind(*at);
  const std::string named = "rank 0 listens at " + trainer.listen;
  const auto state = stream::look_at_place(patient.place);
  if (error == EADDRINUSE && state && state->is_held) {
    out.ok("tcp", named + ": taken, and this job's trainer is running (pid " +
                      std::to_string(state->pid) + ")");
  } else if (error == EADDRINUSE) {
    out.error("tcp", named + ", but another process has that port",
              "ss -ltnp 'sport = :" + std::to_string(at->port) +
                  "' shows which; choose another port "
                  "(key listen, and coordinator of the others)");
  } else if (error != 0) {
    out.error("tcp",
              named + ", which cannot be bound here: " + std::system_category().message(error),
              "listen = 0.0.0.0:" + std::to_string(at->port) +
                  ", or an address of this host "
                  "(ip -brief address)");
  } else {
    out.ok("tcp", named + ": free");
  }
}

/// Devices, or why there are none.
std::string describe_cuda(bool& is_there) {
  const auto cuda = driver::load_cuda();
  is_there = false;
  if (!cuda) return cuda.status().message();
  const auto count = (*cuda)->device_count();
  if (!count) return count.status().message();
  std::string text = std::to_string(*count) + (*count == 1 ? " device" : " devices");
  for (int device = 0; device < *count; ++device) {
    const auto properties = (*cuda)->properties(device);
    const auto memory = (*cuda)->memory(device);
    text += (device == 0 ? ": " : ", ") + std::to_string(device) + " " +
            (properties ? properties->name : properties.status().message());
    if (memory) text += " (" + about(memory->free) + " free of " + about(memory->total) + ")";
  }
  is_there = *count > 0;
  return text;
}

std::string describe_nccl(bool& is_there) {
  const auto nccl = driver::load_nccl();
  is_there = nccl.is_ok();
  if (!nccl) return nccl.status().message();
  const int version = (*nccl)->version();
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

void check_device(const Patient& patient, Findings& out) {
  bool has_cuda = false;
  bool has_nccl = false;
  const std::string cuda = describe_cuda(has_cuda);
  const std::string nccl = describe_nccl(has_nccl);
  const int device = patient.worker ? patient.worker->device : -1;
  const bool wants_cuda = device >= 0 || wants(patient, TransportChoice::kCudaIpc) ||
                          wants(patient, TransportChoice::kNccl);
  if (has_cuda) {
    out.ok("cuda_ipc", cuda);
  } else if (wants_cuda) {
    out.error(
        "cuda_ipc", cuda,
        "nvidia-smi shows whether a driver is there; docker run --gpus all; or transport = auto "
        "and device = none");
  } else {
    out.note("cuda_ipc", cuda + " (not asked for)");
  }
  if (has_nccl) {
    out.ok("nccl", "version " + nccl);
  } else if (wants(patient, TransportChoice::kNccl)) {
    out.error("nccl", nccl,
              "pip install nvidia-nccl-cu13, or name the file in "
              "WEIGHTCAST_NCCL_LIBRARY");
  } else {
    out.note("nccl", nccl + " (not asked for)");
  }
}

}  // namespace

BuildInfo describe_machine() {
  BuildInfo info;
  bool is_there = false;
  info.cuda = describe_cuda(is_there);
  info.nccl = describe_nccl(is_there);
  return info;
}

void check_transports(const Patient& patient, Findings& out) {
  if (patient.trainer && patient.trainer->rank == 0 && !patient.trainer->listen.empty()) {
    check_listen(patient, out);
  } else {
    out.ok("tcp",
           "nothing listens for other hosts: the key listen is empty, or this is not rank 0");
  }
  check_device(patient, out);
}

}  // namespace weightcast::doctor
