// The tcp transport under the contract of all transports, encrypted and not.
#include "contract/tcp_harness.hpp"
#include "contract/transport_contract.hpp"
#include "contract/transport_endurance.hpp"
#include "contract/transport_strips.hpp"

namespace weightcast::transport {
namespace {

INSTANTIATE_TYPED_TEST_SUITE_P(Tcp, TransportContract, TcpHarness<true>);
INSTANTIATE_TYPED_TEST_SUITE_P(Tcp, TransportEndurance, TcpHarness<true>);
INSTANTIATE_TYPED_TEST_SUITE_P(Tcp, TransportStrips, TcpHarness<true>);
INSTANTIATE_TYPED_TEST_SUITE_P(PlainTcp, TransportContract, TcpHarness<false>);
INSTANTIATE_TYPED_TEST_SUITE_P(PlainTcp, TransportEndurance, TcpHarness<false>);
INSTANTIATE_TYPED_TEST_SUITE_P(PlainTcp, TransportStrips, TcpHarness<false>);

}  // namespace
}  // namespace weightcast::transport
