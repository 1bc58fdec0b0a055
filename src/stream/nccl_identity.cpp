#include "stream/nccl_identity.hpp"

#include "base/config.hpp"

namespace weightcast::stream {

Result<std::string> nccl_identity(driver::Cuda& cuda, int device) {
  const auto properties = cuda.properties(device);
  if (!properties) return properties.status();
  const std::string host = base::environment("NCCL_HOSTID").value_or("");
  return host.empty() ? properties->identity : properties->identity + "@" + host;
}

std::string nccl_place(const std::string& identity, const std::string& host, bool is_sources_host) {
  if (is_sources_host) return identity;
  return host + "@" + base::environment("NCCL_HOSTID").value_or("");
}

}  // namespace weightcast::stream
