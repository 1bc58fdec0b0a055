// Control sockets that come and go on several threads of a process.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "stream/control_socket.hpp"
#include "support/private_place.hpp"

namespace weightcast::stream {
namespace {

// Under TSan: libzmq has a state of the process that its first context makes and its last one ends.
TEST(ControlContexts, ComeAndGoBesideOneAnother) {
  const test::PrivatePlace place;
  const std::string endpoint = "ipc://" + place.path() + "/nobody";
  std::atomic<int> connected{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        const auto client = ControlClient::connect(endpoint);
        if (client.is_ok()) ++connected;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(connected, 600);
}

}  // namespace
}  // namespace weightcast::stream
