#include "stream/nccl_identity.hpp"

#include "base/config.hpp"

namespace weightcast::stream {
namespace {

/// What NCCL_HOSTID has added to a GPU's name.
std::string_view host_part(std::string_view identity) noexcept {
  const auto at = identity.find('@');
  return at == std::string_view::npos ? std::string_view() : identity.substr(at);
}

}  // namespace

Result<std::string> nccl_identity(driver::Cuda& cuda, int device) {
  const auto properties = cuda.properties(device);
  if (!properties) return properties.status();
  const std::string host = base::environment("NCCL_HOSTID").value_or("");
  return host.empty() ? properties->identity : properties->identity + "@" + host;
}

bool is_one_host_to_nccl(std::string_view identity, std::string_view other) noexcept {
  return host_part(identity) == host_part(other);
}

std::string nccl_place(const std::string& identity, const std::string& host, bool is_sources_host) {
  return is_sources_host ? identity : host + std::string(host_part(identity));
}

}  // namespace weightcast::stream
