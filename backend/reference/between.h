/* What operators that read images between their elements read, and where: their nodes as numbers. */
#ifndef BACKEND_REFERENCE_BETWEEN_H
#define BACKEND_REFERENCE_BETWEEN_H

#include "graph/graph.h"

/* GridSample. */
enum { GRID_AXES = 3, ALONG_AXIS = 4, GRID_NEIGHBOURS = ALONG_AXIS * ALONG_AXIS * ALONG_AXIS };
typedef enum { GRID_NEAREST, GRID_LINEAR, GRID_CUBIC } GridMode;
typedef enum { GRID_ZEROS, GRID_BORDER, GRID_REFLECTION } GridPadding;

/* X [samples, channels, plane], `places` a sample of `axes` numbers. */
typedef struct {
  GridMode mode;
  GridPadding padding;
  bool corners;
  int axes;
  int64_t size[GRID_AXES]; /* of the spatial axes, the last ones here; those in front are 1 */
  int64_t samples, channels, plane, places;
} Grid;
Grid grid_of(const Node *node, Shape x, Shape grid);

/* PointSample: X [samples, channels, plane], `points` a sample of `axes` numbers. */
enum { POINT_AXES = 3 };
typedef struct {
  int axes;
  int64_t samples, channels, points, plane, size[POINT_AXES];
} Field;
Field field_of(Shape x, Shape points);

/* RoiAlign and MaxRoiPool: X [samples, channels, h, w] pooled to [regions, channels, height, width]. */
enum { PLACE_SAMPLES = 1 << 10 }; /* of a place along one axis, at most */
typedef struct {
  int64_t regions, samples, channels, h, w, height, width;
  double scale, offset;
  int64_t sampling;
  bool half_pixel, largest;
} Regions;
Regions regions_of(const Node *node, Shape x, Shape rois);

#endif
