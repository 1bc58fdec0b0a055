// Device memory of one process in another, which is run as a program.
#include <filesystem>
#include <string>

#include "gpu/device_fixture.hpp"
#include "gpu/ipc_handle_text.hpp"
#include "gpu/spawned.hpp"

namespace weightcast::driver {
namespace {

constexpr std::size_t kHandleText = 128;

std::string peer() {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "ipc_peer").string();
}

class CudaIpcTest : public DeviceTest {};

TEST_F(CudaIpcTest, OpensWhatAnotherProcessExported) {
  test::Spawned owner(peer(), {"own"});
  const std::string handle = owner.hear();
  ASSERT_EQ(handle.size(), kHandleText) << handle;
  for (int round = 0; round < 3; ++round) {
    const auto opened = cuda_->open_memory(kDevice, from_text(handle));
    ASSERT_TRUE(opened) << opened.status().to_string();
    EXPECT_EQ(*cuda_->device_of(*opened), kDevice);
    std::vector<std::byte> got(4 << 20);
    ASSERT_TRUE(copy(got.data(), *opened, got.size()));
    ASSERT_TRUE(finish());
    EXPECT_EQ(got, std::vector<std::byte>(got.size(), std::byte{6}));
    cuda_->close_memory(kDevice, *opened);
  }
  EXPECT_EQ(owner.end(), 0);
}

TEST_F(CudaIpcTest, SeesWhatAnotherProcessWrites) {
  std::byte* memory = on_device(4 << 20);
  const IpcHandle handle = cuda_->export_memory(kDevice, memory).value_or_throw();
  EXPECT_EQ(cuda_->open_memory(kDevice, handle).status().code(), Code::kInvalid);
  test::Spawned writer(peer(), {"fill", to_text(handle), "42"});
  EXPECT_EQ(writer.hear(), "done");
  EXPECT_EQ(writer.end(), 0);
  std::byte got{};
  ASSERT_TRUE(copy(&got, memory, 1));
  ASSERT_TRUE(finish());
  EXPECT_EQ(got, std::byte{42});
}

TEST_F(CudaIpcTest, TheHandleOfADeadProcessIsNotFound) {
  test::Spawned owner(peer(), {"own"});
  const std::string handle = owner.hear();
  ASSERT_EQ(handle.size(), kHandleText) << handle;
  owner.kill();
  EXPECT_EQ(cuda_->open_memory(kDevice, from_text(handle)).status().code(), Code::kNotFound);
  EXPECT_TRUE(copy(on_host(8), on_device(8), 8));
  EXPECT_TRUE(finish());
}

}  // namespace
}  // namespace weightcast::driver
