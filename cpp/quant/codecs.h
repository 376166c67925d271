#pragma once
#include "quant/blocks.h"

namespace imp {

// One block -> fp32. The order of the float operations is part of the contract: results are compared bit for bit.

void decode_block(const BlockQ4_0& block, float* dst);
void decode_block(const BlockQ4_1& block, float* dst);
void decode_block(const BlockQ5_0& block, float* dst);
void decode_block(const BlockQ5_1& block, float* dst);
void decode_block(const BlockQ8_0& block, float* dst);

void decode_block(const BlockQ2K& block, float* dst);
void decode_block(const BlockQ3K& block, float* dst);
void decode_block(const BlockQ4K& block, float* dst);
void decode_block(const BlockQ5K& block, float* dst);
void decode_block(const BlockQ6K& block, float* dst);

void decode_block(const BlockIQ4XS& block, float* dst);
void decode_block(const BlockMXFP4& block, float* dst);
void decode_block(const BlockNVFP4& block, float* dst);
void decode_block(const BlockIQ4NL& block, float* dst);

/// Half of 2^(exponent - 127): the partner of kE2M1Doubled. Exact, subnormal for the two smallest exponents.
float half_e8m0_to_f32(uint8_t exponent);

/// Half of an unsigned E4M3 value (bias 7). Bit 7 is ignored, and 0x7f, the NaN of E4M3, reads as 0.
float half_ue4m3_to_f32(uint8_t bits);

}  // namespace imp
