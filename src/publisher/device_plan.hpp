// What a capture on a device does with which bytes, for as long as the tensors keep their shapes,
// strides and places; their addresses are looked up at each capture. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <weightcast/types.hpp>

#include "plan/shares.hpp"
#include "publisher/capturer.hpp"

namespace weightcast::publisher {

/// How a tensor's published bytes come to be.
enum class Way : std::uint8_t {
  kNone,      ///< of another share, and its digest is not asked for
  kHost,      ///< in host memory, small: copied by the trainer's thread
  kSnapshot,  ///< a buffer, which the trainer may rewrite at once: first copied on its own stream
  kDirect,    ///< as it lies there
  kGather     ///< cast, or with strides
};

/// Bytes [begin, end) of one tensor as published; begin is a multiple of 64.
struct DevicePart {
  std::uint32_t tensor = 0;
  std::uint32_t sum = 0;    ///< where its digest counts
  Way way = Way::kDirect;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t at = 0;     ///< where `begin` goes, from the start of its chunk
  std::uint32_t first_box = 0;  ///< kGather: what it is gathered from
  std::uint32_t boxes = 0;
};

/// A box of a tensor whose elements, row by row, are a part of another's published bytes.
struct GatherBox {
  std::uint64_t to = 0;       ///< bytes from the start of its part
  std::int64_t from = 0;      ///< elements from the tensor's first
  std::uint64_t elements = 0;
  std::uint32_t first_dim = 0;  ///< in DevicePlan::sizes and strides
  std::uint32_t dims = 0;       ///< 0: contiguous
};

/// What moves as one unit.
struct DeviceChunk {
  std::uint32_t first_part = 0;
  std::uint32_t parts = 0;
  std::uint64_t offset = 0;   ///< in the payload; a multiple of 64
  std::uint64_t bytes = 0;    ///< up to its last part's end
  bool is_ours = true;        ///< false: another share's, for its digest alone
  std::uint32_t gathers = 0;  ///< parts that are gathered, and digested where that left them
  std::uint32_t directs = 0;  ///< kDirect parts that the digest copies: they are not in `wholes`
};

struct DevicePlan {
  std::vector<Way> ways;                    ///< by tensor
  std::vector<std::uint64_t> scratch_at;    ///< by tensor: kSnapshot and kHost, in their scratch
  std::uint64_t snapshot_bytes = 0;         ///< of the scratch on the device
  std::uint64_t host_bytes = 0;             ///< of the scratch on the host
  std::vector<DevicePart> wholes;           ///< whole tensors digested where they lie: kDirect that
                                            ///< is not copied by it, kSnapshot; ours first
  std::uint32_t own_wholes = 0;             ///< of these, ours
  std::vector<DevicePart> snapshots;        ///< whole buffers, and how they are gathered
  std::vector<DevicePart> hosts;            ///< whole tensors of the host; `at`: in the payload
  std::vector<DevicePart> parts;            ///< of the chunks
  std::vector<DeviceChunk> chunks;          ///< ours in the payload's order, then the others
  std::uint32_t own_chunks = 0;
  std::uint64_t own_bytes = 0;              ///< that the device moves
  std::vector<GatherBox> boxes;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;
  std::uint32_t sums = 1;                   ///< one an item, one of all others that are compared
};

/// Tensors in host memory beside those of a device: at most so many bytes each, and in all. The
/// trainer's thread copies them, in well below a millisecond.
inline constexpr std::uint64_t kMostHostTensorBytes = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kMostHostBytes = std::uint64_t{2} << 20;

/// The device whose memory a policy's tensors lie in; -1: host memory. Empty tensors lie anywhere,
/// and small ones may lie in host memory beside others on a device.
/// @return kInvalid that names the tensor which is elsewhere
Result<int> device_of(const TensorList& list);

/// @param request checked (check_request), of tensors on one device
/// @param payload_on_device slots are on the device: host tensors go there by a copy, too, and what
///   goes there as it lies is copied by its digest, in one pass
/// @param chunk_bytes of our chunks
/// @param other_chunk_bytes of those of other shares; both are multiples of 64
DevicePlan make_device_plan(const CaptureRequest& request, bool payload_on_device,
                            std::uint64_t chunk_bytes, std::uint64_t other_chunk_bytes);

/// Cuts elements [first, first + count) of the row-major order of a tensor into boxes, which follow
/// one another in it: at most two a dimension, and one. For tests.
/// @param to_size bytes of an element as published
void cut_into_boxes(std::span<const std::int64_t> shape, std::span<const std::int64_t> strides,
                    std::uint64_t first, std::uint64_t count, std::uint64_t to_size,
                    DevicePlan& plan);

}  // namespace weightcast::publisher
